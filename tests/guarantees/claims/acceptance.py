"""What an answer to a publish promises: stored, heard, readable, once; or nowhere at all."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime

from tests.guarantees.records import FOREVER, Acked, Gap, HistoryRead, Log, Refused
from tests.guarantees.sightings import (
    accepted,
    accepted_by_chat,
    answered_reads,
    distinct,
    heard,
    known_numbers,
    sightings,
)


def acknowledged_is_in_history_once(log: Log) -> Iterator[str]:
    messages = accepted_by_chat(log)
    for read in answered_reads(log):
        if read.first is not None or read.last is not None:
            continue
        rows = defaultdict(list)
        for row in read.rows:
            rows[row.message_id].append(row)
        for message in messages[read.chat]:
            late = message.answered_at >= read.asked_at
            if late or (read.by == "number" and not message.numbered) or _has_expired(log, message.timestamp, read):
                continue
            found = rows[message.message_id]
            if len(found) != 1:
                yield f"{message.name} was acknowledged, and {read.name} has it {len(found)} times"
            elif (found[0].digest, found[0].timestamp) != (message.digest, message.timestamp):
                yield f"{message.name} has another payload or timestamp in {read.name}"


def acknowledged_is_heard(log: Log) -> Iterator[str]:
    """By subscriptions that still stand. Where one ended, order (4) says that it missed nothing before."""
    messages, numbers = accepted_by_chat(log), known_numbers(log)
    for subscription in log.subscriptions:
        start = subscription.start
        if start is None or subscription.end is not None:
            continue
        had = {event.message_id: event.number for event in subscription.heard}
        gaps = [event for event in subscription.events if isinstance(event, Gap)]
        reached = max([start.head, *filter(None, had.values()), *(gap.last or 0 for gap in gaps)])
        missing = 0
        for message in messages[subscription.chat]:
            if message.sent_at <= start.at or message.message_id in had:
                continue
            if not message.numbered:
                missing += 1
            elif not start.head < numbers.get((message.chat, message.message_id), 0) <= reached:
                yield f"{message.name} was not heard on {subscription.connection}, nor told by a gap"
        if missing > (told := sum(gap.unnumbered for gap in gaps)):
            yield f"{subscription.connection} missed {missing} unnumbered messages of {subscription.chat}, told {told}"


def an_id_means_one_message(log: Log) -> Iterator[str]:
    acked: defaultdict[tuple[str, str, str], list[Acked]] = defaultdict(list)
    for publish in log.publishes:
        if publish.dedupe_id is not None and isinstance(publish.answer, Acked):
            acked[publish.sender, publish.chat, publish.dedupe_id].append(publish.answer)
    for key, answers in acked.items():
        if len({(answer.message_id, answer.timestamp) for answer in answers}) > 1:
            yield f"{key} was answered with several messages: {answers}"
        if sum(not answer.duplicate for answer in answers) > 1:
            yield f"{key} was answered `duplicate: false` more than once"
    for read in answered_reads(log):
        for digest, times in Counter(row.digest for row in read.rows).items():
            if times > 1:
                yield f"{read.name} has payload {digest} {times} times"


def refused_is_nowhere(log: Log) -> Iterator[str]:
    refused = {publish.digest for publish in log.publishes if isinstance(publish.answer, Refused)}
    refused -= {publish.digest for publish in log.publishes if not isinstance(publish.answer, Refused)}
    for seen in distinct(sightings(log)):
        if seen.digest in refused:
            yield f"{seen.chat} {seen.message_id} was refused, and stands in {seen.where}"


def heard_is_readable(log: Log) -> Iterator[str]:
    numbered: defaultdict[tuple[str | None, str], list[tuple[int, float, str, str]]] = defaultdict(list)
    plain = defaultdict(list)
    for seen in distinct(heard(log)):
        if seen.number is None:
            plain[seen.epoch, seen.chat].append(seen)
        else:
            numbered[seen.epoch, seen.chat].append((seen.number, seen.at, seen.message_id, seen.digest))
    for listed in numbered.values():
        listed.sort()
    for read in answered_reads(log):
        rows = {row.message_id: row for row in read.rows}
        listed = numbered[read.epoch, read.chat]
        low = bisect_left(listed, max(read.first or 1, read.oldest_after), key=lambda each: each[0])
        high = bisect_right(listed, read.last or FOREVER, key=lambda each: each[0])
        for number, at, message_id, digest in listed[low:high]:
            row = rows.get(message_id)
            if at < read.asked_at and (row is None or (row.number, row.digest) != (number, digest)):
                yield f"{read.chat} number {number} was heard, and {read.name} has {row}"
        if read.by == "time":
            for seen in plain[read.epoch, read.chat]:
                row = rows.get(seen.message_id)
                gone = _has_expired(log, seen.timestamp, read)
                if seen.at < read.asked_at and not gone and (row is None or row.digest != seen.digest):
                    yield f"{read.chat} {seen.message_id} was heard, and {read.name} has {row}"


def poison_becomes_a_dead_letter(log: Log) -> Iterator[str]:
    letters = {letter.message_id: letter for read in log.dead_letters for letter in read.letters}
    poison = {message.message_id for message in accepted(log) if message.digest in log.poison}
    for message_id in poison - letters.keys():
        yield f"{message_id} is poison, and no dead letter"
    for message_id, letter in letters.items():
        if letter.attempts != 3:
            yield f"{message_id} became a dead letter after {letter.attempts} attempts"
        if any(message.message_id == message_id and message.digest not in log.poison for message in accepted(log)):
            yield f"{message_id} is a dead letter, and no poison"


def expired_is_never_returned(log: Log) -> Iterator[str]:
    for read in answered_reads(log) if log.retention is not None else ():
        horizon = read.wall_at - (log.retention or 0.0)
        for row in read.rows:
            if _seconds(row.timestamp) < horizon - 0.001:  # stamps are in milliseconds
                yield f"{read.name} has {row.message_id} of {row.timestamp}, which has expired"


def _has_expired(log: Log, timestamp: str, read: HistoryRead) -> bool:
    """When the read was answered, at the latest."""
    if log.retention is None:
        return False
    return _seconds(timestamp) + log.retention <= read.wall_at + read.answered_at - read.asked_at


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
