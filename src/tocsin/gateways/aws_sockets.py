"""The WebSocket door on AWS, where API Gateway holds the sockets and a function sees one event at a time.

    websocket-authorizer:  Upgrade -> authorize -> websocket_authorizer -> Admission, or a denial
    connection-handler:    Upgrade -> connect -> connection_handler       Left -> disconnect
                           Frame -> answer -> effects -> connection_handler -> Clients (posts)
    p2pWebSocketPublisher: Frame -> answer -> p2p_publisher -> ack | error

Rules:
- Nothing runs after the upgrade: the chats of the URL are live from `$connect` on, and what was missed before comes
  when the client asks for it, with `sync` as its first frame.
- What is one frame for whoever asked goes back as the route's response; replays, and all that others hear, are posted.
- Who speaks, until when and for which chats stands in the connection's row and is read at each frame: a token may have
  been renewed since the upgrade. Frames of one connection run side by side; order comes from waiting for the answer.
- An authorizer has no status for a bad request: it lets it pass, and `$connect` refuses.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

from tocsin.bus import Receipt
from tocsin.clients import Clients, Connection
from tocsin.components.connection_handler import error_frame
from tocsin.errors import Refusal, forbidden
from tocsin.gateways.actions import Action, Ping, RefreshToken, SendMessage, Unsubscribe, decode
from tocsin.gateways.aws_events import Admission, Frame, Left, Upgrade
from tocsin.gateways.connect_request import check_origin, read_connect_request
from tocsin.gateways.defects import log_defect
from tocsin.gateways.effects import ack, carry_out, failed, failed_publish, locate
from tocsin.identity import Identity
from tocsin.message import MAX_MESSAGE_BYTES
from tocsin.publishing import Offer
from tocsin.service import Service

#: For one frame: API Gateway gives up at 29 s, and Lambda at 30.
FRAME_SECONDS: Final = 25.0

#: (connection, frames): what is sent to that connection meanwhile becomes the route's response.
_response: Final[ContextVar[tuple[str, list[bytes]]]] = ContextVar("response")


class RouteResponses:
    """A Clients in front of the engine's: what is sent `within` a request, to whoever asks, is kept for the answer."""

    def __init__(self, clients: Clients) -> None:
        self._clients: Final = clients
        self.deliver: Final = clients.deliver
        self.drained: Final = clients.drained
        self.disconnect: Final = clients.disconnect
        self.skipped: Final = clients.skipped

    @contextmanager
    def within(self, connection_id: str) -> Iterator[list[bytes]]:
        frames: list[bytes] = []
        token = _response.set((connection_id, frames))
        try:
            yield frames
        finally:
            _response.reset(token)

    async def send(self, connection_id: str, payloads: Sequence[bytes]) -> bool:
        asker, frames = _response.get(("", []))
        if connection_id != asker:
            return await self._clients.send(connection_id, payloads)
        frames += payloads
        return True


class _Told(msgspec.Struct, rename="camel"):
    """What `$connect` looks at in a frame that nobody can be sent."""

    type: str
    chat_id: str


_told: Final = msgspec.json.Decoder(_Told)


class SocketDoor:
    def __init__(
        self,
        service: Service,
        responses: RouteResponses,
        *,
        limit_of: Callable[[str], Awaitable[frozenset[str] | None]],
        allowed_origins: frozenset[str],
        seconds: float,
    ) -> None:
        """`limit_of` a spent ticket: the chats that it allows. `seconds` for one frame."""
        self._service: Final = service
        self._responses: Final = responses
        self._limit_of: Final = limit_of
        self._allowed_origins: Final = allowed_origins
        self._seconds: Final = seconds
        self._clock: Final = service.engine.clock
        self._metrics: Final = service.engine.metrics

    # -- the upgrade ---------------------------------------------------------------------------------------------------

    async def authorize(self, upgrade: Upgrade) -> Admission | Refusal:
        try:
            wanted, _ = read_connect_request(upgrade.request)
            authorization = await self._service.websocket_authorizer.authorize(wanted)
            check_origin(upgrade.request, self._allowed_origins)
        except Refusal as refusal:
            self._metrics.count("refusals", label=refusal.code)
            return refusal
        return Admission.of(authorization.identity, authorization.chat_ids)

    async def connect(self, upgrade: Upgrade) -> str | Refusal | None:
        """The subprotocol to answer with, if one was offered."""
        verdict = upgrade.verdict
        if isinstance(verdict, Refusal):
            return verdict  # the authorizer has counted it
        try:
            return await self._connect(upgrade, verdict)
        except Refusal as refusal:
            self._metrics.count("refusals", label=refusal.code)
            return refusal

    async def _connect(self, upgrade: Upgrade, verdict: Admission | None) -> str | None:
        if verdict is None:
            raise Refusal("unauthorized", "A token or a ticket is needed.")
        wanted, subprotocol = read_connect_request(upgrade.request)
        identity = verdict.identity
        if verdict.limited:
            limit = None if wanted.ticket is None else await self._limit_of(wanted.ticket)
            identity = msgspec.structs.replace(identity, chat_ids=limit or frozenset())
        handler, connection_id, now = self._service.connection_handler, upgrade.connection_id, self._clock.now()
        await handler.connect(
            Connection(
                connection_id=connection_id,
                identity=identity,
                source_ip=upgrade.source_ip,
                user_agent=upgrade.user_agent[:256],
                connected_at=now,
                last_active_at=now,
            )
        )
        if verdict.chats:
            try:
                for frame in await handler.subscribe_now(connection_id, verdict.chats):
                    told = _told.decode(frame)
                    if told.type == "error":  # revoked since the authorizer looked
                        raise forbidden(told.chat_id)
            except BaseException:
                await handler.disconnect(connection_id)
                raise
        return subprotocol

    async def disconnect(self, left: Left) -> None:
        await self._service.connection_handler.disconnect(left.connection_id)

    # -- what the client says ------------------------------------------------------------------------------------------

    async def answer(self, frame: Frame) -> bytes | None:
        """The frame that goes back to whoever sent this one, if one does."""
        try:
            action = _read(frame)
        except Refusal as refusal:
            return self._refuse(frame, refusal, locate(refusal, frame.text or b""))
        try:
            async with asyncio.timeout(self._seconds):
                if type(action) is SendMessage:
                    return await self._publish(frame, action)
                return await self._act(frame, action)
        except Refusal as refusal:
            return self._refuse(frame, refusal, action.request_id)
        except TimeoutError:
            late = Refusal("unavailable", "There was not time enough for all of it; ask again for what is missing.")
            return self._refuse(frame, late, action.request_id)
        except Exception as error:  # noqa: BLE001 - a defect is answered `internal`: unknown, never silence
            log_defect("a frame failed", error, request_id=frame.request_id)
            defect = failed_publish() if type(action) is SendMessage else failed()
            return self._refuse(frame, defect, action.request_id)

    async def _publish(self, frame: Frame, action: SendMessage) -> bytes | None:
        identity = await self._speaker(frame)
        (answer,) = await self._service.p2p_publisher.publish([Offer(identity, action)])
        if isinstance(answer, Receipt):
            return None if action.request_id is None else ack(action.request_id, answer)
        return error_frame(answer, frame.connection_id, action.request_id)  # publishers have counted it

    async def _act(self, frame: Frame, action: Action) -> bytes | None:
        handler, connection_id = self._service.connection_handler, frame.connection_id
        if type(action) is Ping:
            identity = _NOBODY
        else:
            identity = await self._speaker(frame)
            if identity.expires_at <= self._clock.now() and type(action) is not RefreshToken:
                raise Refusal("token_expired", "The token has expired; send a new one with refreshToken.")
        if type(action) not in (Ping, RefreshToken, Unsubscribe):
            await carry_out(handler, connection_id, identity, action)
            return None
        with self._responses.within(connection_id) as frames:
            await carry_out(handler, connection_id, identity, action)
        (answer,) = frames
        return answer

    async def _speaker(self, frame: Frame) -> Identity:
        connection = await self._service.engine.connections.get(frame.connection_id)
        if connection is None:
            raise Refusal("gone", "This connection is not known any more; open another one.")
        return connection.identity

    def _refuse(self, frame: Frame, refusal: Refusal, request_id: str | None) -> bytes:
        self._metrics.count("refusals", label=refusal.code)
        return error_frame(refusal, frame.connection_id, request_id)


#: A ping says nothing about anybody.
_NOBODY: Final = Identity(user_id="nobody", expires_at=0)


def _read(frame: Frame) -> Action:
    if frame.text is None:
        raise Refusal("unsupported_data", "Text frames only.")
    if len(frame.text) > MAX_MESSAGE_BYTES:
        raise Refusal("message_too_large", f"A message may have {MAX_MESSAGE_BYTES} bytes.")
    return decode(frame.text)
