"""The Application behind the WebSocket gateway: what a client says goes to the components, answers go back.

    WebSocketConnection -> authorize -> websocket_authorizer -> connection_handler
                        -> received  -> actions.decode -> p2p_publisher (what all clients sent in one turn, together)
                                                       -> effects -> connection_handler (one action after another)

Rules:
- actions of one connection take effect in order: while one is under way, what follows waits in its backlog; publishes
  that stand together go together;
- a connection whose backlog grows is not read until it is done;
- no task for a message: a turn's publishes share one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, Protocol, cast

from tocsin.bus import Receipt
from tocsin.clients import Connection, Socket
from tocsin.components.connection_handler import error_frame
from tocsin.components.websocket_authorizer import Authorization
from tocsin.errors import Refusal
from tocsin.gateways.actions import Action, SendMessage, decode
from tocsin.gateways.connect_request import check_origin, read_connect_request
from tocsin.gateways.defects import log_defect
from tocsin.gateways.effects import ack, carry_out, failed, failed_publish, locate
from tocsin.gateways.frames import text_frame
from tocsin.gateways.handshake import UpgradeRequest
from tocsin.gateways.websocket import Accepted, WebSocketConnection
from tocsin.identity import Identity
from tocsin.publishing import Offer
from tocsin.service import Service

#: Texts that may wait behind an action before the connection is no longer read.
MAX_BACKLOG: Final = 256


class Sockets(Protocol):
    """Where a hub takes the sockets of connections that were opened."""

    def attach(self, connection_id: str, socket: Socket) -> None: ...
    def stalled(self, connection_id: str) -> None: ...
    def resumed(self, connection_id: str) -> None: ...


class Conversation:
    """One client: who it is, and what it has asked for."""

    __slots__ = ("backlog", "connection_id", "identity", "is_busy", "resume", "socket")

    def __init__(self, connection_id: str, identity: Identity, resume: Authorization | None) -> None:
        self.connection_id = connection_id
        self.identity = identity
        #: The subscription with a replay that the URL asked for.
        self.resume = resume
        self.socket: WebSocketConnection | None = None
        self.is_busy = False
        self.backlog: deque[bytes] | None = None


class Conversations:
    def __init__(
        self,
        service: Service,
        sockets: Sockets,
        *,
        new_id: Callable[[], str],
        allowed_origins: frozenset[str] = frozenset(),
    ) -> None:
        """`allowed_origins`: a browser's Origin must be one of them; empty: any."""
        self._new_id = new_id
        self._service = service
        self._sockets = sockets
        self._allowed_origins = allowed_origins
        self._clock = service.engine.clock
        self._metrics = service.engine.metrics
        self._offers: list[Offer] = []
        self._askers: list[tuple[Conversation, str | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_draining = False

    # -- the upgrade ---------------------------------------------------------------------------------------------------

    async def authorize(self, request: UpgradeRequest, peer: str) -> Accepted:
        wanted, subprotocol = read_connect_request(request)
        authorization = await self._service.websocket_authorizer.authorize(wanted)
        check_origin(request, self._allowed_origins)
        if self.is_draining:
            raise Refusal("unavailable", "The service restarts.", retry_after=5)
        handler = self._service.connection_handler
        connection_id = self._new_id()
        now = self._clock.now()
        await handler.connect(
            Connection(
                connection_id=connection_id,
                identity=authorization.identity,
                source_ip=peer,
                user_agent=(request.header("user-agent") or "")[:256],
                connected_at=now,
                last_active_at=now,
            )
        )
        frames = b""
        resumes = authorization.last_sequence is not None
        if authorization.chat_ids and not resumes:
            try:
                payloads = await handler.subscribe_now(connection_id, authorization.chat_ids)
            except BaseException:
                await handler.disconnect(connection_id)
                raise
            frames = b"".join([text_frame(payload) for payload in payloads])
        conversation = Conversation(connection_id, authorization.identity, authorization if resumes else None)
        return Accepted(client=conversation, subprotocol=subprotocol, frames=frames)

    def opened(self, connection: WebSocketConnection) -> None:
        conversation = cast(Conversation, connection.client)
        conversation.socket = connection
        self._sockets.attach(conversation.connection_id, connection)
        if conversation.resume is not None:
            self._begin(conversation, self._resume(conversation, conversation.resume))
            conversation.resume = None

    async def _resume(self, conversation: Conversation, wanted: Authorization) -> None:
        await self._service.connection_handler.subscribe(
            conversation.connection_id,
            wanted.chat_ids[0],
            last_sequence=wanted.last_sequence,
            epoch=wanted.epoch,
            request_id=None,
        )

    def closed(self, connection: WebSocketConnection, code: int) -> None:
        conversation = cast(Conversation, connection.client)
        conversation.socket = None
        conversation.backlog = None
        self._spawn(self._service.connection_handler.disconnect(conversation.connection_id))

    # -- what the client says ------------------------------------------------------------------------------------------

    def received(self, connection: WebSocketConnection, texts: list[bytes]) -> None:
        conversation = cast(Conversation, connection.client)
        if conversation.is_busy:
            self._wait(conversation, texts)
        else:
            self._advance(conversation, texts)

    def received_binary(self, connection: WebSocketConnection, payload: bytes) -> None:
        conversation = cast(Conversation, connection.client)
        self._refuse(conversation, Refusal("unsupported_data", "Text frames only."), None)

    def stalled(self, connection: WebSocketConnection) -> None:
        self._sockets.stalled(cast(Conversation, connection.client).connection_id)

    def writable(self, connection: WebSocketConnection) -> None:
        self._sockets.resumed(cast(Conversation, connection.client).connection_id)

    def _wait(self, conversation: Conversation, texts: list[bytes]) -> None:
        if conversation.backlog is None:
            conversation.backlog = deque()
        conversation.backlog.extend(texts)
        if len(conversation.backlog) > MAX_BACKLOG and conversation.socket is not None:
            conversation.socket.pause_reading()

    def _advance(self, conversation: Conversation, texts: list[bytes]) -> None:
        """Takes what can be taken now: publishes up to the first other action, or that action."""
        for index, text in enumerate(texts):
            try:
                action = decode(text)
            except Refusal as refusal:
                self._refuse(conversation, refusal, locate(refusal, text))
                continue
            if type(action) is SendMessage:
                if not self._offers:
                    asyncio.get_running_loop().call_soon(self._publish_offers)
                self._offers.append(Offer(conversation.identity, action))
                self._askers.append((conversation, action.request_id))
                conversation.is_busy = True
            elif conversation.is_busy:
                self._wait(conversation, texts[index:])
                return
            else:
                self._begin(conversation, self._act(conversation, action))
                self._wait(conversation, texts[index + 1 :])
                return

    def _done(self, conversation: Conversation) -> None:
        """What was under way has taken effect: what waits behind it goes on."""
        conversation.is_busy = False
        backlog, conversation.backlog = conversation.backlog, None
        if conversation.socket is not None:
            if backlog is not None and len(backlog) > MAX_BACKLOG:
                conversation.socket.resume_reading()
            if backlog:
                self._advance(conversation, list(backlog))

    # -- publishes -----------------------------------------------------------------------------------------------------

    def _publish_offers(self) -> None:
        offers, self._offers = self._offers, []
        askers, self._askers = self._askers, []
        self._spawn(self._publish(offers, askers))

    async def _publish(self, offers: list[Offer], askers: list[tuple[Conversation, str | None]]) -> None:
        try:
            answers = await self._service.p2p_publisher.publish(offers)
        except Exception as error:  # noqa: BLE001 - a defect is answered `internal`: unknown, never silence
            log_defect("a batch of publishes failed", error)
            answers = [failed_publish()] * len(offers)
        frames: list[bytes] = []
        current: Conversation | None = None
        for (conversation, request_id), answer in zip(askers, answers, strict=True):
            if conversation is not current:
                if current is not None:
                    self._answer(current, frames)
                current, frames = conversation, []
            if isinstance(answer, Receipt):
                if request_id is not None:
                    frames.append(text_frame(ack(request_id, answer)))
            else:
                frames.append(text_frame(error_frame(answer, conversation.connection_id, request_id)))
        if current is not None:
            self._answer(current, frames)

    def _answer(self, conversation: Conversation, frames: list[bytes]) -> None:
        """All answers of one connection's publishes in one write."""
        if frames and conversation.socket is not None:
            conversation.socket.write(frames[0] if len(frames) == 1 else b"".join(frames))
        self._done(conversation)

    # -- the other actions ---------------------------------------------------------------------------------------------

    def _begin(self, conversation: Conversation, effect: Coroutine[None, None, None]) -> None:
        conversation.is_busy = True
        self._spawn(self._carry_out(conversation, effect))

    async def _carry_out(self, conversation: Conversation, effect: Coroutine[None, None, None]) -> None:
        try:
            await effect
        finally:
            self._done(conversation)

    async def _act(self, conversation: Conversation, action: Action) -> None:
        try:
            conversation.identity = await carry_out(
                self._service.connection_handler, conversation.connection_id, conversation.identity, action
            )
        except Refusal as refusal:
            self._refuse(conversation, refusal, action.request_id)
        except Exception as error:  # noqa: BLE001 - a defect is answered `internal`, and the connection goes on
            log_defect("an action failed", error)
            self._refuse(conversation, failed(), action.request_id)

    def _refuse(self, conversation: Conversation, refusal: Refusal, request_id: str | None) -> None:
        self._metrics.count("refusals", label=refusal.code)
        if conversation.socket is not None:
            conversation.socket.write(text_frame(error_frame(refusal, conversation.connection_id, request_id)))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_defect("a conversation failed", error)

    async def drain(self, connections: Iterable[WebSocketConnection]) -> None:
        """Reads no more, and returns when what was read is answered. Who comes now is told to come again."""
        self.is_draining = True
        for connection in connections:
            connection.pause_reading()
        while self._offers or self._tasks:
            await (asyncio.wait(self._tasks) if self._tasks else asyncio.sleep(0))
