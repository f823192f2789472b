"""WebSocket Authorizer: a credential and the wish to connect -> who it is, and to which chats. (Seed:
websocket-authorizer/)

Rule: it says who may come in; the subscription that connection_handler makes checks the permission again, in its own
transaction.
"""

import msgspec

from tocsin.clock import Clock
from tocsin.errors import Refusal, forbidden, invalid, no_number
from tocsin.identity import Identity, TokenCheck
from tocsin.message import MAX_SEQUENCE, is_chat_id
from tocsin.roles import may_read
from tocsin.tables import Permissions, Tickets


class ConnectRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the URL and the headers of an upgrade say; of several credentials the first in docs/wire.md's order.

    `fault` is what is wrong with its form: it is told once it is known who asks, because 401 comes before 400.
    """

    ticket: str | None = None
    token: str | None = None
    user_id: str | None = None
    chat_ids: tuple[str, ...] = ()
    last_sequence: str | None = None
    epoch: str | None = None
    fault: Refusal | None = None


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    identity: Identity
    chat_ids: tuple[str, ...]
    last_sequence: int | None
    epoch: str | None


class WebsocketAuthorizer:
    def __init__(
        self,
        *,
        tokens: TokenCheck,
        tickets: Tickets,
        permissions: Permissions,
        clock: Clock,
        chats_per_connection: int,
    ) -> None:
        self._tokens = tokens
        self._tickets = tickets
        self._permissions = permissions
        self._clock = clock
        self._chats_per_connection = chats_per_connection

    async def authorize(self, request: ConnectRequest) -> Authorization:
        identity = await self._identify(request)
        if request.fault is not None:
            raise request.fault
        chat_ids = tuple(dict.fromkeys(request.chat_ids))
        if len(chat_ids) > self._chats_per_connection:
            raise invalid("chatId", f"A connection may listen to {self._chats_per_connection} chats.")
        for chat_id in chat_ids:
            if not is_chat_id(chat_id):
                raise invalid("chatId", "A chatId is 1 to 128 of the characters A-Z a-z 0-9 . _ : @ | + = ~ -")
        last_sequence = None
        if request.last_sequence is not None:
            if len(chat_ids) != 1:
                raise invalid("lastSequence", "It needs exactly one chatId.")
            if (
                not (request.last_sequence.isascii() and request.last_sequence.isdigit())
                or len(request.last_sequence) > 18
            ):
                raise no_number("lastSequence", 0, MAX_SEQUENCE)
            last_sequence = int(request.last_sequence)
        if request.user_id is not None and request.user_id != identity.user_id:
            raise Refusal("forbidden", "The userId is not the token's.", field="userId")
        roles = await self._permissions.roles([(identity.user_id, chat_id) for chat_id in chat_ids])
        for chat_id, role in zip(chat_ids, roles, strict=True):
            allowed = may_read(identity.user_id, chat_id, role) or "messages:read" in identity.scopes
            if not allowed or (identity.chat_ids is not None and chat_id not in identity.chat_ids):
                raise forbidden(chat_id)
        return Authorization(identity=identity, chat_ids=chat_ids, last_sequence=last_sequence, epoch=request.epoch)

    async def _identify(self, request: ConnectRequest) -> Identity:
        now = self._clock.now()
        if request.ticket is not None:
            identity = await self._tickets.redeem(request.ticket, now)
            if identity is None:
                raise Refusal("invalid_ticket", "The ticket is unknown, spent or too old.")
            if identity.expires_at <= now:
                raise Refusal("token_expired", "The token that the ticket was made with has expired.")
            return identity
        if request.token is None:
            raise Refusal("unauthorized", "A token or a ticket is needed.")
        return await self._tokens.check(request.token, now)
