"""What happened, as seen from outside: recorder -> `Log` -> checker.

Rules: a record is what a client saw, never what it concluded. Every `at` is the monotonic clock of the one process
that records (seconds); only `wall_at` and `timestamp` are of the calendar. A payload is known by the digest of its
very bytes, and no two drafts have the same payload, so the digest says which publish a message came from.
"""

import hashlib
from typing import Final, Literal

import msgspec

FOREVER: Final = float("inf")


def digest(payload: bytes) -> str:
    """16 hex digits: enough to tell the payloads of one run apart, short enough to read."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


# ------------------------------------------------------------------------------------------------ publishers


class Acked(msgspec.Struct, frozen=True, kw_only=True):
    """202, or an `ack` frame."""

    message_id: str
    timestamp: str
    duplicate: bool


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A definite refusal: 4xx, 429 or 507. Nothing was stored."""

    status: int
    code: str


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """500, 502-504 or a cut connection: stored or not."""

    reason: str


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt; a repeat is another one, with the same `dedupe_id` and `digest`."""

    sender: str
    chat: str
    #: The WebSocket connection, or None where requests have no order among themselves.
    connection: str | None
    numbered: bool
    dedupe_id: str | None
    digest: str
    sent_at: float
    answered_at: float
    answer: Acked | Refused | Unknown


# ------------------------------------------------------------------------------------------------ readers


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    at: float
    head: int
    oldest: int
    epoch: str
    recovered: bool


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    at: float
    number: int | None
    message_id: str
    timestamp: str
    digest: str


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers first..last (both or none), and how many messages without a number."""

    at: float
    first: int | None = None
    last: int | None = None
    unnumbered: int = 0


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    at: float


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """`unsubscribed`."""

    at: float


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """The subscribe was refused: at the upgrade, or by an `error` frame."""

    at: float
    code: str


class Closed(msgspec.Struct, frozen=True, kw_only=True):
    """The connection ended; 1006 if without a close frame."""

    at: float
    code: int
    reason: str = ""


Event = Subscribed | Heard | Gap | Revoked | Left | Denied | Closed


class Subscription(msgspec.Struct, kw_only=True):
    """One subscribe on one connection and everything that came of it, in order of arrival."""

    connection: str
    user: str
    chat: str
    asked_at: float
    #: `lastSequence` and `epoch` as asked.
    last: int | None = None
    epoch: str | None = None
    events: list[Event] = msgspec.field(default_factory=list)

    @property
    def start(self) -> Subscribed | None:
        return next((event for event in self.events if isinstance(event, Subscribed)), None)

    @property
    def end(self) -> Revoked | Left | Denied | Closed | None:
        ends = (event for event in self.events if isinstance(event, Revoked | Left | Denied | Closed))
        return next(ends, None)

    @property
    def heard(self) -> list[Heard]:
        return [event for event in self.events if isinstance(event, Heard)]


# ------------------------------------------------------------------------------------------------ history, and the rest


class Row(msgspec.Struct, frozen=True, kw_only=True):
    number: int | None
    message_id: str
    timestamp: str
    digest: str


class HistoryRead(msgspec.Struct, frozen=True, kw_only=True):
    """One walk through `GET /messages`, all its pages joined.

    `rows` stand in the order in which they were given; `head`, `oldest` and `epoch` are the first page's,
    `oldest_after` is the last one's. `wall_at` (seconds since 1970) is when it was asked.
    """

    reader: str
    chat: str
    asked_at: float
    answered_at: float
    wall_at: float
    by: Literal["number", "time"]
    #: The range asked for, inclusive; None = open.
    first: int | None = None
    last: int | None = None
    refused: Refused | None = None
    rows: tuple[Row, ...] = ()
    head: int = 0
    oldest: int = 1
    oldest_after: int = 1
    epoch: str = ""

    @property
    def name(self) -> str:
        return f"the read of {self.chat} by {self.by} at {self.asked_at:.3f}"


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """An answered `DELETE /permissions`. `again_at`: when the user was granted anew."""

    user: str
    chat: str
    fence: int
    asked_at: float
    answered_at: float
    again_at: float = FOREVER


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    message_id: str
    attempts: int


class DeadLetterRead(msgspec.Struct, frozen=True, kw_only=True):
    """`tocsin dlq list`; the last one of a log is taken when everything has settled."""

    asked_at: float
    letters: tuple[DeadLetter, ...]


class OwnersRead(msgspec.Struct, frozen=True, kw_only=True):
    chat: str
    asked_at: float
    owners: tuple[str, ...]


class TicketUse(msgspec.Struct, frozen=True, kw_only=True):
    ticket: str
    at: float
    accepted: bool


class MemorySample(msgspec.Struct, frozen=True, kw_only=True):
    """Resident set of the server, and what it may be at most, in bytes."""

    at: float
    resident: int
    limit: int


class Log(msgspec.Struct, kw_only=True):
    """Everything that was recorded in one run."""

    publishes: list[Publish] = msgspec.field(default_factory=list)
    subscriptions: list[Subscription] = msgspec.field(default_factory=list)
    reads: list[HistoryRead] = msgspec.field(default_factory=list)
    revocations: list[Revocation] = msgspec.field(default_factory=list)
    dead_letters: list[DeadLetterRead] = msgspec.field(default_factory=list)
    owners: list[OwnersRead] = msgspec.field(default_factory=list)
    tickets: list[TicketUse] = msgspec.field(default_factory=list)
    memory: list[MemorySample] = msgspec.field(default_factory=list)
    #: Digests of the payloads that the processor was made to fail on.
    poison: set[str] = msgspec.field(default_factory=set)
    #: How often the store was put back to an earlier state (each draws a new epoch).
    restores: int = 0
    #: Seconds that a message lives; None = longer than the run.
    retention: float | None = None
    #: What the server printed, and what must not be in it.
    output: str = ""
    secrets: set[str] = msgspec.field(default_factory=set)
