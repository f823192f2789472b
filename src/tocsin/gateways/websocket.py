"""One client's WebSocket, straight on uvloop's transport.

    front: an ordinary upgrade -> WebSocketConnection.open -> Application.authorize
        refused  -> an HTTP answer, and the connection is closed
        accepted -> 101 and the first frames in one write -> Application.opened
    socket -> data_received -> FrameReader -> Application.received          (all texts of one read in one call)
    Application -> connection.write(frames) -> transport                    (in between at most an idle limit's clock)
    Keepalive.sweep -> ping, end_if_silent, end_if_overdue, close, abort

    OPENING -> OPEN <-> STALLED -> CLOSING -> CLOSED

Rules:
- Nothing of a connection that is not reading grows: while its writes are stalled it is not read either, so that
  nothing it sends can be owed an answer. Only the slow reader's clock runs then (docs/wire.md, Slow reader).
- The application hears `opened` once and `closed` once, last, from the event loop and never from inside a call
  of its own. After `close` nothing it writes leaves, and nothing more is handed to it.
- A connection has no timer, task or buffer of its own while it is idle. It is slots, and they are counted.
- No query string, header or message is ever logged.

Long because a connection's states are one machine; apart, none of them could be checked.
"""

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, Protocol

import msgspec

from tocsin.errors import CloseCode, Refusal
from tocsin.gateways import frames
from tocsin.gateways.defects import log_defect
from tocsin.gateways.frames import Binary, Close, Event, FrameReader, Ping, Violation, close_frame, pong_frame
from tocsin.gateways.handshake import UpgradeRequest, accept_response, render_refusal
from tocsin.gateways.keepalive import Keepalive, State

ABNORMAL: Final = 1006
"""The code of an end without a close frame; never on the wire (RFC 6455 section 7.1.5)."""

_P = ParamSpec("_P")
_PING: Final = frames.ping_frame()


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """An upgrade that may happen.

    `client` becomes `connection.client`; `subprotocol` is one that was offered, or None; `frames` are sent in the
    same write as the 101.
    """

    client: object
    subprotocol: str | None = None
    frames: bytes = b""


class Application(Protocol):
    """What stands behind the connections. All but `authorize` are called from the event loop and may not block.

    From the end of `authorize` to the end of `opened` is one turn of the loop: what the application registers at the
    end of the one, it may rely on in the other. Any of these may call `write`, `close` or `abort`.
    """

    async def authorize(self, request: UpgradeRequest, peer: str) -> Accepted:
        """Let the client in, or raise `Refusal`. `peer` is its address. Cancelled if the client goes away."""

    def opened(self, connection: "WebSocketConnection") -> None:
        """The first call for a connection; its first frames are on their way."""

    def received(self, connection: "WebSocketConnection", texts: list[bytes]) -> None:
        """Text messages, UTF-8, in the order they came: all that one read brought."""

    def received_binary(self, connection: "WebSocketConnection", payload: bytes) -> None:
        """A binary message, in its place among the texts."""

    def stalled(self, connection: "WebSocketConnection") -> None:
        """More than `write_high` is unsent; write no more than must be. May come from inside `write`."""

    def writable(self, connection: "WebSocketConnection") -> None:
        """Less than `write_low` is unsent again."""

    def closed(self, connection: "WebSocketConnection", code: int) -> None:
        """The last call. `code` is who closed first's: ours, the peer's (1005: none), 1006 without a close frame."""


class _Opening:
    """What only a connection that is not yet open has."""

    __slots__ = ("early", "request", "request_id", "task")

    def __init__(self, request: UpgradeRequest, request_id: str, early: bytes) -> None:
        self.request = request
        self.request_id = request_id
        self.early = bytearray(early)
        self.task: asyncio.Task[None] | None = None


class _Usage:
    """When a connection was opened and last used: what only one has whose idleness or life is limited.

    Pings, pongs and close frames are no use: they go to the transport without it.
    """

    __slots__ = ("_keepalive", "_send", "last", "opened")

    def __init__(self, keepalive: "Keepalive[WebSocketConnection]", send: Callable[[bytes], None]) -> None:
        self._keepalive = keepalive
        self._send = send
        self.opened = self.last = keepalive.now

    def write(self, frames: bytes) -> None:
        self.last = self._keepalive.now
        self._send(frames)


class WebSocketConnection(asyncio.Protocol):
    """A client. `client` belongs to the application; `last_active` is on the keepalive's clock, within its tick."""

    __slots__ = (
        "_application",
        "_code",
        "_held",
        "_keepalive",
        "_on_lost",
        "_opening",
        "_reader",
        "_transport",
        "_usage",
        "bucket",
        "client",
        "last_active",
        "peer",
        "state",
        "write",
    )

    write: Callable[[bytes], None]
    """Send frames (`frames.text_frame`), joined or alone: the transport's own `write`, or nothing once closed.

    With an idle limit it is `_Usage.write`.
    """

    def __init__(
        self,
        application: Application,
        keepalive: "Keepalive[WebSocketConnection]",
        peer: str,
        on_lost: Callable[[str], None],
    ) -> None:
        self._application = application
        self._keepalive = keepalive
        self._on_lost = on_lost
        self._reader = FrameReader(keepalive.settings.max_message)
        self._transport: asyncio.Transport
        self._opening: _Opening | None = None
        self._usage: _Usage | None = None
        self._code = ABNORMAL
        self._held = False
        self.bucket = 0
        self.client: object = None
        self.last_active = keepalive.now
        self.peer = peer
        self.state = State.OPENING
        self.write = _discard

    # The upgrade

    def open(self, transport: asyncio.Transport, request: UpgradeRequest, request_id: str, early: bytes) -> None:
        """Take over a transport whose protocol this is; `early` is what came behind the head."""
        self._transport = transport
        self._opening = _Opening(request, request_id, early)
        self._keepalive.watch(self)
        self._opening.task = asyncio.get_running_loop().create_task(self._authorize(self._opening))

    async def _authorize(self, opening: _Opening) -> None:
        try:
            accepted = await self._application.authorize(opening.request, self.peer)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:  # noqa: BLE001 - a defect of the application is answered 500, like anywhere
            log_defect("authorize failed", error)
            self.refuse(Refusal("internal", "The upgrade failed for a reason of the service's own."))
        else:
            self._accept(accepted, opening)

    def _accept(self, accepted: Accepted, opening: _Opening) -> None:
        self.client = accepted.client
        if self.state is not State.OPENING:  # authorize outlived its cancellation
            self._call(self._application.opened, self)
            self._call(self._application.closed, self, ABNORMAL)
            return
        settings, transport = self._keepalive.settings, self._transport
        self._opening = None
        self._keepalive.add(self)
        self.last_active = self._keepalive.now
        transport.set_write_buffer_limits(settings.write_high, settings.write_low)
        response = accept_response(opening.request.key, accepted.subprotocol, opening.request_id)
        transport.write(response + accepted.frames)
        self.state = State.OPEN
        self.write = transport.write
        if settings.idle_limit or settings.connection_life:
            self._usage = _Usage(self._keepalive, transport.write)
            if settings.idle_limit:
                self.write = self._usage.write
        self._call(self._application.opened, self)
        if self.unsent > settings.write_high:
            self.pause_writing()
        if opening.early:
            self.data_received(bytes(opening.early))
        self._pace_reading()

    def refuse(self, refusal: Refusal) -> None:
        """Answer the upgrade with an HTTP error. Does nothing once it has been answered."""
        opening, self._opening = self._opening, None
        if opening is None:
            return
        self.state = State.CLOSED
        self._keepalive.discard(self)
        self._keepalive.refused(refusal.code)
        self._transport.write(render_refusal(refusal, opening.request_id))
        self._transport.close()
        if opening.task is not None:
            opening.task.cancel()

    # What the application does

    @property
    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def _is_open(self) -> bool:
        return self.state is State.OPEN or self.state is State.STALLED

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, wait for the peer's (5 s), then cut. The first call counts."""
        if self._is_open:
            self._begin_closing(code, close_frame(code, reason))

    def abort(self) -> None:
        """Cut the connection now; what is unsent is lost, and nothing more is handed over but `closed`."""
        if self._is_open:
            self.state = State.CLOSING
            self.write = _discard
        self._transport.abort()

    def pause_reading(self) -> None:
        """Read no more for now: the application has enough to do. No ping is missed meanwhile."""
        self._held = True
        self._pace_reading()

    def resume_reading(self) -> None:
        self._held = False
        self.last_active = self._keepalive.now
        self._count_use()
        self._pace_reading()

    # What the transport says

    def data_received(self, data: bytes) -> None:
        if self._opening is not None:
            self._opening.early += data
            if len(self._opening.early) > self._keepalive.settings.early_limit:
                self._transport.pause_reading()
            return
        self.last_active = self._keepalive.now
        events = self._reader.feed(data)
        if events:
            self._call(self._handle, events)

    def _handle(self, events: list[Event]) -> None:
        texts: list[bytes] = []
        pongs: list[bytes] = []
        for event in events:
            if type(event) is bytes:
                texts.append(event)
            elif type(event) is Ping:
                pongs.append(pong_frame(event.payload))
            elif type(event) is Binary:
                self._hand_over(texts)
                texts = []
                if self.state is not State.CLOSING:
                    self._count_use()
                    self._application.received_binary(self, event.payload)
        if pongs and self._is_open:
            self._transport.write(b"".join(pongs))
        self._hand_over(texts)
        if type(last := events[-1]) is Close:
            self._answer_close(last)
        elif type(last) is Violation:
            self._break_off(last)

    def _hand_over(self, texts: list[bytes]) -> None:
        if texts and self.state is not State.CLOSING:
            self._count_use()
            self._application.received(self, texts)

    def _count_use(self) -> None:
        if self._usage is not None:
            self._usage.last = self._keepalive.now

    def _answer_close(self, close: Close) -> None:
        """The closing handshake is over, or is with our answer (RFC 6455 section 5.5.1); the server hangs up first."""
        if self.state is not State.CLOSING:
            self._begin_closing(close.code, close_frame(close.code))
        self._transport.close()

    def _break_off(self, violation: Violation) -> None:
        """Say why, hang up, and hear the peer out: closed with bytes unread, TCP would take back what was said."""
        self.close(violation.code, violation.reason)
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _begin_closing(self, code: int, last: bytes = b"") -> None:
        self._code = code
        self.state = State.CLOSING
        self.write = _discard
        self._transport.write(last)
        self._keepalive.watch(self)
        self._pace_reading()

    def eof_received(self) -> None:
        """The peer hangs up; nothing is said to half a connection."""
        if self._opening is not None:
            self._transport.abort()
        elif self.state is not State.CLOSING:
            self._begin_closing(ABNORMAL)

    def pause_writing(self) -> None:
        if self.state is State.OPEN:
            self.state = State.STALLED
            self._keepalive.watch(self)
            self._pace_reading()
            self._call(self._application.stalled, self)

    def resume_writing(self) -> None:
        if self.state is State.STALLED:
            self.state = State.OPEN
            self._keepalive.unwatch(self)
            self.last_active = self._keepalive.now
            self._count_use()
            self._pace_reading()
            self._call(self._application.writable, self)

    def connection_lost(self, exc: Exception | None) -> None:
        opening, self._opening = self._opening, None
        was, self.state = self.state, State.CLOSED
        self.write = _discard
        self._keepalive.discard(self)
        self._on_lost(self.peer)
        if opening is not None and opening.task is not None:
            opening.task.cancel()
        elif was is not State.CLOSED:
            self._call(self._application.closed, self, self._code)

    def _pace_reading(self) -> None:
        """Read what can be answered; a closing connection is read for the peer's close frame alone."""
        if self.state is State.CLOSING or (self.state is State.OPEN and not self._held):
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _call(self, callback: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - a defect of the application ends this connection, no other
            log_defect("connection failed", error)
            self.close(CloseCode.INTERNAL, "The connection failed for a reason of the service's own.")

    # What the keepalive asks

    def ping(self) -> None:
        if self.state is State.OPEN:
            self._transport.write(_PING)

    def end_if_silent(self, since: float) -> None:
        """Close if nothing was heard since the ping that was sent then. Whom we do not listen to is not silent."""
        if self.state is State.OPEN and not self._held and self.last_active < since:
            self.close(CloseCode.INTERNAL, "No answer to a ping.")

    def end_if_overdue(self, now: float) -> None:
        """Close who has been idle too long, or has lived long enough. Whom we do not listen to is not idle."""
        usage, settings = self._usage, self._keepalive.settings
        if usage is None or self.state is not State.OPEN:
            return
        if settings.connection_life and now - usage.opened >= settings.connection_life:
            self.close(CloseCode.GOING_AWAY, "The connection has reached its age; open another one.")
        elif settings.idle_limit and not self._held and now - usage.last >= settings.idle_limit:
            self.close(CloseCode.GOING_AWAY, "The connection was idle for too long.")

    def forgive(self, late: float) -> None:
        """Our own silence was not the client's idleness."""
        if self._usage is not None:
            self._usage.last += late


def _discard(frames: bytes) -> None:
    """The `write` of a connection that is not open."""
