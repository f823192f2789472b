"""Permission Manager: POST, DELETE, GET /permissions; POST /tickets. (Seed: chat-permission-handler/)

Rule: a revocation goes tombstone -> subscriptions dropped -> head read (the fence) -> `revoked` sent -> answered.
Dropping before reading is what makes the fence true: nobody of his was sent anything above it. The fence is written
last, so where it stands all has been done; where it does not, a repeated DELETE goes through all of it again.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from tocsin.clients import Clients, Connections
from tocsin.clock import Clock
from tocsin.errors import Refusal, forbidden
from tocsin.failpoints import Failpoints
from tocsin.identity import Identity
from tocsin.roles import RANK, Role, is_inbox_of
from tocsin.tables import Numbers, Permission, PermissionPage, Permissions, Tickets

SERVICE: Final = "permissions:write"


class ChatPermission:
    def __init__(
        self,
        *,
        permissions: Permissions,
        connections: Connections,
        clients: Clients,
        numbers: Numbers,
        tickets: Tickets,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._permissions = permissions
        self._connections = connections
        self._clients = clients
        self._numbers = numbers
        self._tickets = tickets
        self._clock = clock
        self._failpoints = failpoints

    async def grant(self, actor: Identity, user_id: str, chat_id: str, role: Role) -> Permission:
        return await self._permissions.grant(actor, user_id, chat_id, role, self._clock.now())

    async def revoke(self, actor: Identity, user_id: str, chat_id: str) -> int:
        """The fence: no socket of the user's is sent a number above it."""
        tombstone = await self._permissions.revoke(actor, user_id, chat_id, self._clock.now())
        if tombstone.fence is not None:
            return tombstone.fence
        await self._failpoints.reach("revoke.tombstoned")
        dropped: Sequence[str] = ()
        if not is_inbox_of(user_id, chat_id):
            dropped = await self._connections.revoke(user_id, chat_id)
        await self._failpoints.reach("revoke.dropped")
        fence = (await self._numbers.heads([chat_id]))[chat_id].sequence
        revoked = b'{"type":"revoked","chatId":"%b"}' % chat_id.encode()
        for connection_id in dropped:
            await self._clients.send(connection_id, [revoked])
        return await self._permissions.fence(user_id, chat_id, fence)

    async def list_permissions(
        self, actor: Identity, user_id: str | None, chat_id: str | None, *, after: str | None, limit: int
    ) -> PermissionPage:
        """Own rows; a chat's for its owners and admins; all for a service. Both ids: that one row."""
        service = SERVICE in actor.scopes
        if not service and user_id != actor.user_id:
            if chat_id is None:
                raise Refusal("forbidden", "You are not allowed to see what another user may do.")
            (role,) = await self._permissions.roles([(actor.user_id, chat_id)])
            if role is None or RANK[role] < RANK["admin"]:
                raise forbidden()
        if user_id is not None and chat_id is not None:
            return await self._one(user_id, chat_id)
        if user_id is not None:
            return await self._permissions.of_user(user_id, after=after, limit=limit)
        assert chat_id is not None
        return await self._permissions.of_chat(chat_id, after=after, limit=limit)

    async def _one(self, user_id: str, chat_id: str) -> PermissionPage:
        """The row itself, found where the pages are: the page that begins just before it."""
        page = await self._permissions.of_user(user_id, after=_before(chat_id), limit=1)
        return PermissionPage(permissions=[row for row in page.permissions if row.chat_id == chat_id], next=None)

    async def offer_ticket(self, identity: Identity, chat_ids: frozenset[str] | None) -> str:
        if chat_ids is not None and identity.chat_ids is not None:
            chat_ids &= identity.chat_ids
        offered = identity if chat_ids is None else msgspec.structs.replace(identity, chat_ids=chat_ids)
        return await self._tickets.offer(offered, self._clock.now())


def _before(chat_id: str) -> str:
    """A string that sorts before `chat_id`, with nothing of the identifiers between: `~` is their last character."""
    return chat_id[:-1] + chr(ord(chat_id[-1]) - 1) + "\x7f"
