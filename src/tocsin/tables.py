"""WHAT IS REMEMBERED: messages, numbers, permissions, tickets. (Connections, the fifth table, stand in clients.py.)

Promises are on the methods; a number that anyone has heard can be fetched, and `oldest` never falls.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from tocsin.identity import Identity
from tocsin.message import Message
from tocsin.roles import Role


class Head(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A chat's last number (0: none yet), the oldest that has not expired (head + 1: none), the store's life."""

    sequence: int
    oldest: int
    epoch: str


class Numbers(Protocol):
    async def number(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The same messages, each that needs a number with it. Idempotent by message; number and message are
        committed in one transaction, and the counter is never ahead of the messages."""
        ...

    async def heads(self, chat_ids: Collection[str]) -> Mapping[str, Head]:
        """Consistent: never below a number that anyone has heard."""
        ...


class Page(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Message bodies ready to be sent, and where the next page begins (None: there is none)."""

    bodies: Sequence[bytes]
    next: str | None


class Messages(Protocol):
    async def store(self, messages: Sequence[Message]) -> None:
        """Upserts by (chat, timestamp, id); never touches a number; safe to repeat."""
        ...

    async def by_number(self, chat_id: str, first: int, last: int, limit: int) -> Page:
        """Ascending and complete: every number of the range that has not expired, or `unavailable`."""
        ...

    async def by_time(
        self, chat_id: str, first: int | None, last: int | None, *, ascending: bool, after: str | None, limit: int
    ) -> Page:
        """All that was acknowledged and has not expired, once; `first` and `last` are inclusive milliseconds."""
        ...

    async def expire(self, now: int, limit: int) -> int:
        """Deletes up to `limit` messages that are past their time; how many they were. Reads never show them."""
        ...


class Permission(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    user_id: str
    chat_id: str
    role: Role
    granted_by: str
    granted_at: int


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """A revoked permission; `fence` is None until the revocation has gone through."""

    fence: int | None


class PermissionPage(msgspec.Struct, frozen=True, kw_only=True):
    permissions: Sequence[Permission]
    next: str | None


class Permissions(Protocol):
    async def roles(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Role | None]:
        """Consistent: for each (user, chat) the role as of now."""
        ...

    async def grant(self, actor: Identity, user_id: str, chat_id: str, role: Role, now: int) -> Permission:
        """Refusals: `forbidden`, `last_owner`; decided inside the transaction (roles.py)."""
        ...

    async def revoke(self, actor: Identity, user_id: str, chat_id: str, now: int) -> Tombstone:
        """Leaves a tombstone; a repeated one finds it. Refusals: `forbidden`, `last_owner`, `not_found`."""
        ...

    async def fence(self, user_id: str, chat_id: str, sequence: int) -> int:
        """Completes a tombstone. The fence that stands: of two revocations that run at once the first one's."""
        ...

    async def of_user(self, user_id: str, *, after: str | None, limit: int) -> PermissionPage: ...

    async def of_chat(self, chat_id: str, *, after: str | None, limit: int) -> PermissionPage: ...


class Tickets(Protocol):
    async def offer(self, identity: Identity, now: int) -> str:
        """A secret that stands for the identity once, within 60 s. `rate_limited` where too many are out."""
        ...

    async def redeem(self, ticket: str, now: int) -> Identity | None:
        """Spends it; None if it is unknown, spent or too old, even for the second of two at once."""
        ...
