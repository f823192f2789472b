"""How a connected client is reached: who is connected, who listens to what, and how a message gets there.

    connection_handler -> Connections (who, and to which chats)
    processor -> Connections.audience -> Clients.deliver

Rules:
- a subscription is the permission: it is checked in the transaction that makes it, and revoking it ends it;
- between replay and live there is no hole and no repeat;
- delivery keeps the order on each connection in bounded memory; a dead or slow one costs the others nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from tocsin.errors import Refusal
from tocsin.identity import Identity
from tocsin.message import Message

#: A token ends this long after its `exp`, at every door; `tokenExpiring` comes 60 s before `exp`.
LEEWAY_MILLISECONDS: Final = 30_000
EXPIRY_WARNING_MILLISECONDS: Final = 60_000 + LEEWAY_MILLISECONDS


class Socket(Protocol):
    """One upgraded connection, as a gateway hands it to a hub."""

    #: Takes frames that are already encoded, after all that was written before.
    write: Callable[[bytes], None]
    #: When something was last read from it, on `Clock.monotonic`.
    last_active: float

    def close(self, code: int, reason: str = "") -> None: ...


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in milliseconds since the epoch."""

    connection_id: str
    identity: Identity
    source_ip: str
    user_agent: str
    connected_at: int
    last_active_at: int


class Subscription(Protocol):
    """The engine's own record of a connection that listens to a chat."""

    @property
    def connection_id(self) -> str: ...

    @property
    def chat_id(self) -> str: ...


class Listeners(Protocol):
    """The engine's own form of a chat's audience."""


class Connections(Protocol):
    async def open(self, connection: Connection) -> None:
        """`rate_limited` where the user has too many."""
        ...

    async def get(self, connection_id: str) -> Connection | None: ...

    async def refresh(self, connection_id: str, identity: Identity) -> None: ...

    async def close(self, connection_ids: Collection[str]) -> None:
        """Forgets them and their subscriptions."""
        ...

    async def expiring(self, now: int) -> Sequence[Connection]:
        """Each connection once 60 s before its token's `exp`, and when the token has ended. Where a connection outlives
        whoever asks it is named again until it is closed, so that none is forgotten with him."""
        ...

    async def subscribe(self, connection_id: str, chat_ids: Sequence[str]) -> Sequence[Subscription | Refusal]:
        """Permission and subscription in one transaction. Not live yet: what is numbered from now on is owed.
        Subscribing again starts anew. Refusals: `forbidden`, `invalid_argument` (too many), `gone`."""
        ...

    async def is_live(self, connection_id: str, chat_id: str) -> bool: ...

    async def stands(self, subscription: Subscription) -> bool:
        """Whether it has not been ended or begun anew meanwhile."""
        ...

    async def go_live(self, subscription: Subscription, delivered: int) -> int | None:
        """None: live, from `delivered` on without a hole. A number: up to there is owed; replay it, call again. Without
        the strength `holds_sockets` a replay that is overtaken again and again goes live behind a `gap`."""
        ...

    async def leave(self, connection_id: str, chat_id: str) -> bool:
        """Ends the subscription after what was due before; whether there was one."""
        ...

    async def revoke(self, user_id: str, chat_id: str) -> Sequence[str]:
        """Ends the user's subscriptions to the chat after what was due before; the connections that had them. Where a
        connection outlives whoever asks it is named again when this is repeated: perhaps nobody has told it."""
        ...

    async def audience(self, chat_ids: Collection[str]) -> Mapping[str, Listeners]:
        """Who listens; read after the number is committed. Chats that nobody hears are left out."""
        ...


class Clients(Protocol):
    async def deliver(self, audience: Mapping[str, Listeners], messages: Sequence[Message]) -> Collection[str]:
        """Sends each chat's messages to its listeners, in order; the connections that turned out to be gone.
        A message that comes again while its queue still holds it is not sent again (strength `no_repeat`)."""
        ...

    async def send(self, connection_id: str, payloads: Sequence[bytes]) -> bool:
        """Frames of JSON for one connection, never dropped; False: it is gone. Without the strength `holds_sockets` it
        is refused with `unavailable` where nobody can say yet."""
        ...

    async def drained(self, connection_id: str) -> bool:
        """Returns when the connection can take more of a replay; False: it is gone."""
        ...

    async def disconnect(self, connection_id: str, code: int, reason: str = "") -> bool: ...

    async def skipped(self, messages: Sequence[Message]) -> None:
        """These became dead letters: who listens is told by `gap`."""
        ...


def gap_frame(chat_id: str, first: int | None, last: int, unnumbered: int = 0) -> bytes:
    """What a connection has not been and will not be sent: these numbers, and so many messages without one."""
    numbers = "" if first is None else f',"from":{first},"to":{last}'
    plain = f',"unnumbered":{unnumbered}' if unnumbered else ""
    return f'{{"type":"gap","chatId":"{chat_id}"{numbers}{plain}}}'.encode()
