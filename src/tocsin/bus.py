"""How messages travel: a publisher publishes to a topic, queues fill, consumers empty them.

Every engine keeps these promises (docs/contracts.md says how):
- what `publish` has answered with a receipt is durable; in one chat the order is that of the calls;
- a publish with an id that was seen within the last five minutes, by the same sender in the same chat, gets the
  first one's receipt and makes no second message, or `idempotency_conflict` where its body differs;
- a FIFO chat is never in flight twice; a chat that is stuck holds up no other;
- after a queue's last attempt the message stands in its dead-letter queue, and its chat goes on.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from tocsin.errors import Refusal
from tocsin.message import Message, Publication
from tocsin.topology import Queue


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to an accepted publish: the first one's id and time where it is a duplicate."""

    message_id: str
    timestamp: int
    duplicate: bool = False


#: Takes a batch and returns when all of it is done. What it raises fails the batch; the bus then tries each message
#: alone, so that only the guilty one is counted as tried.
Consumer = Callable[[Sequence[Message]], Awaitable[None]]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Times are in milliseconds since the epoch; `letter_id` is the bus's own name for it."""

    letter_id: str
    queue: str
    message_id: str
    chat_id: str
    sequence_number: int | None
    reason: str
    attempts: int
    first_failed_at: int
    last_failed_at: int
    body: msgspec.Raw


class Depth(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a queue holds: `waiting` not yet done, the age of the oldest in seconds, and the dead."""

    queue: str
    waiting: int
    oldest_age: float
    dead_letters: int


class Bus(Protocol):
    async def publish(
        self, publications: Sequence[Publication], *, chained: bool = False
    ) -> Sequence[Receipt | Refusal]:
        """One answer for each, in order; `chained`: after one that is refused, the later ones of its chat are refused
        too (`after_refused`). Refusals: `idempotency_conflict`, `rate_limited`, `insufficient_storage`
        are definite, `unavailable` is unknown."""
        ...

    def consume(self, queue: Queue, consumer: Consumer) -> None:
        """Hands the queue's messages to `consumer` from now on."""
        ...

    async def dead_letters(
        self, queue: Queue | None = None, *, letter_id: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        """In the order in which they first failed; with `letter_id` that one alone, if it is there."""
        ...

    async def replay(self, letter_ids: Sequence[str] | None) -> int:
        """Puts dead letters back into their queues, with the id and number they have; how many there were.
        None: all that are there now, each once, also if it dies again meanwhile."""
        ...

    async def purge(self, letter_ids: Sequence[str] | None) -> int:
        """Deletes dead letters; how many there were. None: all that are there now, and none that comes later."""
        ...

    async def depths(self) -> Sequence[Depth]: ...

    async def drain(self) -> None:
        """Returns when all that was accepted is done, or dead."""
        ...
