"""What a `Log` says about messages, put together: `Log` -> facts -> the claims of checker.py.

Rule: facts are joined here and judged there.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from tests.guarantees.records import Acked, HistoryRead, Log, Publish


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A message that somebody was told is accepted.

    `sent_at` is the first attempt's, answered or not; `answered_at` the first acknowledgement's.
    """

    chat: str
    message_id: str
    timestamp: str
    digest: str
    numbered: bool
    sent_at: float
    answered_at: float

    @property
    def name(self) -> str:
        return f"{self.chat} {self.message_id}"


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a reader or a history read showed it."""

    at: float
    #: None: heard in a replay that was cut off before it named its epoch.
    epoch: str | None
    chat: str
    number: int | None
    message_id: str
    timestamp: str
    digest: str
    where: str


def accepted(log: Log) -> list[Accepted]:
    """Each accepted message once, in the order of the first acknowledgements."""
    first_sent: dict[str, float] = {}
    first_ack: dict[tuple[str, str], Publish] = {}
    for publish in sorted(log.publishes, key=lambda each: each.answered_at):
        first_sent[publish.digest] = min(publish.sent_at, first_sent.get(publish.digest, publish.sent_at))
        if isinstance(publish.answer, Acked):
            first_ack.setdefault((publish.chat, publish.answer.message_id), publish)
    return [
        Accepted(
            chat=chat,
            message_id=message_id,
            timestamp=publish.answer.timestamp if isinstance(publish.answer, Acked) else "",
            digest=publish.digest,
            numbered=publish.numbered,
            sent_at=first_sent[publish.digest],
            answered_at=publish.answered_at,
        )
        for (chat, message_id), publish in first_ack.items()
    ]


def accepted_by_chat(log: Log) -> Mapping[str, list[Accepted]]:
    by_chat: defaultdict[str, list[Accepted]] = defaultdict(list)
    for message in accepted(log):
        by_chat[message.chat].append(message)
    return by_chat


def answered_reads(log: Log) -> list[HistoryRead]:
    return [read for read in log.reads if read.refused is None]


def heard(log: Log) -> Iterator[Sighting]:
    for subscription in log.subscriptions:
        start = subscription.start
        epoch = start.epoch if start else subscription.epoch
        for event in subscription.heard:
            yield Sighting(
                at=event.at,
                epoch=epoch,
                chat=subscription.chat,
                number=event.number,
                message_id=event.message_id,
                timestamp=event.timestamp,
                digest=event.digest,
                where=f"connection {subscription.connection}",
            )


def read(log: Log) -> Iterator[Sighting]:
    for each in answered_reads(log):
        for row in each.rows:
            yield Sighting(
                at=each.answered_at,
                epoch=each.epoch,
                chat=each.chat,
                number=row.number,
                message_id=row.message_id,
                timestamp=row.timestamp,
                digest=row.digest,
                where=each.name,
            )


def sightings(log: Log) -> Iterator[Sighting]:
    yield from heard(log)
    yield from read(log)


def known_numbers(log: Log) -> dict[tuple[str, str], int]:
    """(chat, messageId) -> number, of all that was ever seen with one."""
    return {(each.chat, each.message_id): each.number for each in sightings(log) if each.number is not None}


def distinct(seen: Iterator[Sighting]) -> list[Sighting]:
    """The first of those that say the same of a message: judging a million equal ones says no more."""
    first: dict[tuple[str | None, str, int | None, str, str, str], Sighting] = {}
    for each in seen:
        said = (each.epoch, each.chat, each.number, each.message_id, each.timestamp, each.digest)
        first.setdefault(said, each)
    return list(first.values())
