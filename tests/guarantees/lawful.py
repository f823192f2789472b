"""A log that no claim has anything to say about: what test_checker.py breaks, one promise at a time."""

from dataclasses import dataclass, field

import msgspec

from tests.guarantees.records import (
    Acked,
    Closed,
    DeadLetter,
    DeadLetterRead,
    Denied,
    Gap,
    Heard,
    HistoryRead,
    Log,
    MemorySample,
    OwnersRead,
    Publish,
    Refused,
    Revocation,
    Revoked,
    Row,
    Subscribed,
    Subscription,
    TicketUse,
    Unknown,
)

CHAT = "room"


def stamp(key: str) -> str:
    """The messages of the lawful log are called by a letter, and a later letter is later."""
    return f"2026-01-01T00:00:00.{ord(key):03d}Z"


def publish(key: str, sent_at: float, *, number: bool = True, dedupe_id: str | None = None) -> Publish:
    return Publish(
        sender="alice",
        chat=CHAT,
        connection="alice-1",
        numbered=number,
        dedupe_id=dedupe_id,
        digest=f"bytes of {key}",
        sent_at=sent_at,
        answered_at=sent_at + 0.5,
        answer=Acked(message_id=key, timestamp=stamp(key), duplicate=False),
    )


def heard(key: str, number: int | None, at: float) -> Heard:
    return Heard(at=at, number=number, message_id=key, timestamp=stamp(key), digest=f"bytes of {key}")


def row(key: str, number: int | None) -> Row:
    return Row(number=number, message_id=key, timestamp=stamp(key), digest=f"bytes of {key}")


@dataclass
class Lawful:
    """One chat: a, b, c have numbers, p has none, d (number 4) is poison; e was refused, f is not known.

    `stays` is subscribed throughout, `drops` loses its connection after b and resumes, `eve` is revoked after b,
    `plain` hears one without a number while it resumes.
    """

    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        a, b, p = publish("a", 10), publish("b", 20, dedupe_id="two"), publish("p", 25, number=False)
        c, d, e, f = publish("c", 30), publish("d", 40), publish("e", 45), publish("f", 47)
        again = Acked(message_id="b", timestamp=stamp("b"), duplicate=True)
        self.log.publishes = [
            a,
            b,
            msgspec.structs.replace(b, sent_at=21, answered_at=22, answer=again),
            p,
            c,
            d,
            msgspec.structs.replace(e, answer=Refused(status=507, code="insufficient_storage")),
            msgspec.structs.replace(f, answer=Unknown(reason="cut")),
            msgspec.structs.replace(e, sender="eve", sent_at=60, answered_at=61, answer=Refused(status=403, code="no")),
        ]
        self.stays = self.subscription(
            "bob-1", "bob", 1, [Subscribed(at=2, head=0, oldest=1, epoch="E", recovered=True)]
        )
        self.stays.events += [heard("a", 1, 11), heard("b", 2, 21), heard("p", None, 26), heard("c", 3, 31)]
        self.stays.events += [Gap(at=41, first=4, last=4)]
        self.drops = self.subscription("carol-1", "carol", 1, [*self.stays.events[:3], Closed(at=22, code=1006)])
        self.resumes = self.subscription("carol-2", "carol", 42, [heard("c", 3, 43), Gap(at=43.5, first=4, last=4)])
        self.resumes.last, self.resumes.epoch = 2, "E"
        self.resumes.events += [Subscribed(at=44, head=4, oldest=1, epoch="E", recovered=False)]
        self.again = self.subscription("carol-3", "carol", 52, [heard("c", 3, 53), heard("d", 4, 53.5)])
        self.plain = self.subscription("dora-1", "dora", 24.5, [heard("p", None, 26)])
        self.plain.last, self.plain.epoch = 2, "E"
        self.plain.events += [Subscribed(at=27, head=2, oldest=1, epoch="E", recovered=True), Closed(at=28, code=1000)]
        self.again.last, self.again.epoch = 2, "E"
        self.again.events += [Subscribed(at=54, head=4, oldest=1, epoch="E", recovered=True)]
        self.eve = self.subscription("eve-1", "eve", 1, [*self.stays.events[:3], Revoked(at=24)])
        self.late_eve = self.subscription("eve-2", "eve", 33, [Denied(at=34, code="forbidden")])
        self.log.revocations = [Revocation(user="eve", chat=CHAT, fence=2, asked_at=23, answered_at=24.5)]
        self.by_number = self.read("number", 50, [row("a", 1), row("b", 2), row("c", 3), row("d", 4)])
        self.by_time = self.read("time", 51, [row("d", 4), row("c", 3), row("p", None), row("b", 2), row("a", 1)])
        self.log.dead_letters = [DeadLetterRead(asked_at=50, letters=(DeadLetter(message_id="d", attempts=3),))]
        self.log.poison = {"bytes of d"}
        self.log.owners = [OwnersRead(chat=CHAT, asked_at=at, owners=("alice",)) for at in (1, 50)]
        self.log.tickets = [TicketUse(ticket="t", at=at, accepted=at == 1) for at in (1, 2)]
        self.log.memory = [MemorySample(at=50, resident=80 << 20, limit=100 << 20)]
        self.log.output, self.log.secrets = "listening\nstopped", {"eyJhbGciOi"}

    def subscription(self, name: str, user: str, asked_at: float, events: list[object]) -> Subscription:
        made = Subscription(connection=name, user=user, chat=CHAT, asked_at=asked_at)
        made.events = msgspec.structs.replace(made, events=events).events
        self.log.subscriptions.append(made)
        return made

    def read(self, by: str, at: float, rows: list[Row]) -> int:
        """Returns the read's place in the log."""
        read = HistoryRead(
            reader="bob", chat=CHAT, asked_at=at, answered_at=at + 0.5, wall_at=0, by="number", rows=tuple(rows), head=4
        )
        self.log.reads.append(msgspec.structs.replace(read, by=by, epoch="E"))
        return len(self.log.reads) - 1

    def reread(self, place: int, **changes: object) -> None:
        self.log.reads[place] = msgspec.structs.replace(self.log.reads[place], **changes)

    def without(self, *keys: str) -> None:
        """As if those messages were in no history."""
        for place, read in enumerate(self.log.reads):
            self.reread(place, rows=tuple(each for each in read.rows if each.message_id not in keys))


def replace_answer(lawful: Lawful, place: int, **changes: object) -> None:
    lawful.log.publishes[place] = msgspec.structs.replace(lawful.log.publishes[place], **changes)
