"""What the numbers promise: 1..n in every view, by order of acceptance, and a resume that can trust them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tests.guarantees.records import Acked, Gap, Heard, Log, Subscribed
from tests.guarantees.sightings import (
    accepted,
    accepted_by_chat,
    answered_reads,
    distinct,
    heard,
    known_numbers,
    sightings,
)


def every_read_has_all_numbers(log: Log) -> Iterator[str]:
    for read in answered_reads(log):
        given = [row.number for row in read.rows if row.number is not None and row.number >= read.oldest_after]
        if read.by == "number" and given != sorted(given):
            yield f"{read.name} is not in the order of its numbers"
        given.sort()
        low, high = max(read.first or 1, read.oldest_after), min(read.last or read.head, read.head)
        if low <= high and (not given or given[0] != low or given[-1] < high):
            yield f"{read.name} has {given[:1]}..{given[-1:]} where {low}..{high} was due"
        for before, after in pairwise(given):
            if after != before + 1:
                yield f"{read.name} jumps from {before} to {after}"


def a_number_means_one_message(log: Log) -> Iterator[str]:
    by_number: dict[tuple[str | None, str, int], str] = {}
    by_message: dict[tuple[str | None, str, str], int | None] = {}
    for seen in distinct(sightings(log)):
        if seen.epoch is None:
            continue
        if seen.number is not None:
            other = by_number.setdefault((seen.epoch, seen.chat, seen.number), seen.message_id)
            if other != seen.message_id:
                yield f"{seen.chat} number {seen.number} is {other}, and {seen.message_id} in {seen.where}"
        number = by_message.setdefault((seen.epoch, seen.chat, seen.message_id), seen.number)
        if number != seen.number:
            yield f"{seen.chat} {seen.message_id} has number {number}, and {seen.number} in {seen.where}"


def a_subscription_leaves_no_hole(log: Log) -> Iterator[str]:
    for subscription in log.subscriptions:
        start, cursor, replay = subscription.start, subscription.last, True
        # What is no longer there may be skipped, once, before a replay that says so or was cut off.
        may_jump = subscription.last is not None and (start is None or not start.recovered)
        for event in subscription.events:
            if isinstance(event, Subscribed):
                top = cursor if cursor is not None and (event.recovered or cursor != subscription.last) else 0
                cursor, replay = max(event.head, top), False
                continue
            if isinstance(event, Heard):
                first = last = event.number
            elif isinstance(event, Gap):
                first, last = event.first, event.last
            else:
                continue
            if first is None or last is None:
                continue
            if cursor is None:
                yield f"{subscription.connection} got {first} of {subscription.chat} before `subscribed`"
            elif last < first or (first != cursor + 1 and not (replay and may_jump and first > cursor)):
                yield f"{subscription.connection} got {first}..{last} of {subscription.chat} after {cursor}"
            may_jump, cursor = False, last


def no_message_comes_twice(log: Log) -> Iterator[str]:
    for subscription in log.subscriptions:
        for message_id, times in Counter(event.message_id for event in subscription.heard).items():
            if times > 1:
                yield f"{subscription.connection} heard {message_id} of {subscription.chat} {times} times"


def sent_after_the_answer_is_numbered_after(log: Log) -> Iterator[str]:
    numbers = known_numbers(log)
    for chat, messages in accepted_by_chat(log).items():
        numbered = [(message, numbers.get((chat, message.message_id))) for message in messages if message.numbered]
        known = [(message, number) for message, number in numbered if number is not None]
        by_sending = sorted(known, key=lambda each: each[0].sent_at)
        answered, highest = 0, 0  # `known` is in the order of the answers
        for message, number in by_sending:
            while answered < len(known) and known[answered][0].answered_at < message.sent_at:
                highest, answered = max(highest, known[answered][1]), answered + 1
            if highest > number:
                yield f"{message.name} has number {number}, sent after {highest} was acknowledged"


def one_connection_keeps_its_order(log: Log) -> Iterator[str]:
    numbers, last = known_numbers(log), dict[tuple[str, str], int]()
    for publish in sorted(log.publishes, key=lambda each: each.sent_at):
        answer = publish.answer
        if publish.connection is None or not isinstance(answer, Acked) or answer.duplicate:
            continue
        number = numbers.get((publish.chat, answer.message_id))
        if number is not None:
            before = last.get((publish.connection, publish.chat), 0)
            if number < before:
                yield f"{publish.connection} sent {answer.message_id} after number {before}, and it has {number}"
            last[publish.connection, publish.chat] = number


#: A head or an oldest: at, chat, epoch, value.
Mark = tuple[float, str, str | None, int]


def heads_never_fall(log: Log) -> Iterator[str]:
    """Nor below what anyone has heard, or was acknowledged, before the head was asked for."""
    starts = [(each, start) for each in log.subscriptions if (start := each.start)]
    asked: list[Mark] = [(each.asked_at, each.chat, start.epoch, start.head) for each, start in starts]
    asked += [(read.asked_at, read.chat, read.epoch, read.head) for read in answered_reads(log)]
    told: list[Mark] = [(start.at, each.chat, start.epoch, start.head) for each, start in starts]
    told += [(read.answered_at, read.chat, read.epoch, read.head) for read in answered_reads(log)]
    told += [(seen.at, seen.chat, seen.epoch, seen.number or 0) for seen in distinct(heard(log))]
    epochs = {epoch for _, _, epoch, _ in asked}
    if len(epochs) == 1:
        (epoch,), numbers = epochs, known_numbers(log)
        for message in accepted(log):
            told.append((message.answered_at, message.chat, epoch, numbers.get((message.chat, message.message_id), 0)))
    yield from (f"head of {chat}: {now} at {at:.3f}, {was} before" for chat, at, was, now in _falls(told, asked))


def oldest_never_falls(log: Log) -> Iterator[str]:
    starts = [(each, start) for each in log.subscriptions if (start := each.start)]
    reads = answered_reads(log)
    asked: list[Mark] = [(each.asked_at, each.chat, start.epoch, start.oldest) for each, start in starts]
    asked += [(read.asked_at, read.chat, read.epoch, read.oldest) for read in reads]
    told: list[Mark] = [(start.at, each.chat, start.epoch, start.oldest) for each, start in starts]
    told += [(read.answered_at, read.chat, read.epoch, read.oldest) for read in reads]
    yield from (f"oldest of {chat}: {now} at {at:.3f}, {was} before" for chat, at, was, now in _falls(told, asked))
    bounds = [(each.chat, start.oldest, start.head) for each, start in starts]
    bounds += [(read.chat, read.oldest, read.head) for read in reads]
    for chat, oldest, head in bounds:
        if not 1 <= oldest <= head + 1:
            yield f"oldest of {chat} is {oldest} and its head {head}"


def recovered_means_everything(log: Log) -> Iterator[str]:
    for subscription in log.subscriptions:
        start, last = subscription.start, subscription.last
        if start is None:
            continue
        replay = subscription.events[: subscription.events.index(start)]
        gap = any(isinstance(event, Gap) and event.first is not None for event in replay)
        name = f"{subscription.connection} resumed {subscription.chat} at {last}"
        if last is None:
            if not start.recovered:
                yield f"{subscription.connection} asked for no replay of {subscription.chat}, and was not recovered"
        elif start.recovered:
            had = max([last, *(event.number or 0 for event in replay if isinstance(event, Heard))])
            if gap or had < start.head:
                yield f"{name}, was called recovered at head {start.head}, and has only {had}"
        elif not (gap or start.oldest > last + 1 or last > start.head or subscription.epoch not in {None, start.epoch}):
            yield f"{name}, everything is there, and it was not recovered"


def who_knows_more_is_told(log: Log) -> Iterator[str]:
    for subscription in log.subscriptions:
        start, last = subscription.start, subscription.last
        if start is None or last is None or not start.recovered:
            continue
        if last > start.head or subscription.epoch not in {None, start.epoch}:
            yield f"{subscription.connection} knew {last} of {subscription.epoch}, and was called recovered by {start}"


def an_epoch_lives_until_a_restore(log: Log) -> Iterator[str]:
    epochs = {start.epoch for each in log.subscriptions if (start := each.start)}
    epochs |= {read.epoch for read in answered_reads(log)}
    if len(epochs) > 1 + log.restores:
        yield f"{len(epochs)} epochs and {log.restores} restores: {sorted(epochs)}"


def time_ascends_with_numbers(log: Log) -> Iterator[str]:
    seen = [each for each in distinct(sightings(log)) if each.number is not None]
    seen.sort(key=lambda each: (each.chat, each.epoch or "", each.number or 0))
    for before, after in pairwise(seen):
        same = (before.chat, before.epoch) == (after.chat, after.epoch) and before.number != after.number
        if same and (before.timestamp, before.message_id) >= (after.timestamp, after.message_id):
            yield f"{after.chat}: {after.number} ({after.timestamp}) is not later than {before.number}"


def _falls(told: Iterable[Mark], asked: Iterable[Mark]) -> Iterator[tuple[str, float, int, int]]:
    """(chat, at, highest told before, value) for each value asked for after a higher one had been told."""
    earlier = sorted(told, key=lambda mark: mark[0], reverse=True)
    highest: defaultdict[tuple[str, str | None], int] = defaultdict(int)
    for at, chat, epoch, value in sorted(asked, key=lambda mark: mark[0]):
        while earlier and earlier[-1][0] < at:
            _, of_chat, of_epoch, known = earlier.pop()
            highest[of_chat, of_epoch] = max(highest[of_chat, of_epoch], known)
        if value < highest[chat, epoch]:
            yield chat, at, highest[chat, epoch], value
