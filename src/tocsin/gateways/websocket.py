"""One client's WebSocket, straight on uvloop's transport; and the clocks over all of them.

    front: an ordinary upgrade -> WebSocketConnection.open -> Application.authorize
        refused  -> an HTTP answer, and the connection is closed
        accepted -> 101 and the first frames in one write -> Application.opened
    socket -> data_received -> FrameReader -> Application.received          (all texts of one read in one call)
    Application -> connection.write(frames) -> transport                    (in between at most an idle limit's clock)
    Keepalive.sweep -> pings, and an end to the silent, the stalled, the slow to close, the idle and the old

    OPENING -> OPEN <-> STALLED -> CLOSING -> CLOSED

Rules:
- Nothing of a connection that is not reading grows: while its writes are stalled it is not read either, so that
  nothing it sends can be owed an answer. Only the slow reader's clock runs then (docs/wire.md, Slow reader).
- The application hears `opened` once and `closed` once, last, from the event loop and never from inside a call
  of its own. After `close` nothing it writes leaves, and nothing more is handed to it.
- A connection has no timer, task or buffer of its own while it is idle. It is slots, and they are counted.
- No query string, header or message is ever logged, nor the text of an exception, which may quote one.

Long because a connection's states and the clocks over them are one machine; apart, neither could be checked.
"""

import asyncio
import enum
import math
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Final, ParamSpec, Protocol

import msgspec
import structlog

from tocsin.errors import CloseCode, Refusal
from tocsin.gateways import frames
from tocsin.gateways.frames import Binary, Close, Event, FrameReader, Ping, Violation, close_frame, pong_frame
from tocsin.gateways.handshake import UpgradeRequest, accept_response, render_refusal

ABNORMAL: Final = 1006
"""The code of an end without a close frame; never on the wire (RFC 6455 section 7.1.5)."""
BUCKETS: Final = 100
"""Shares of the connections that are pinged at the same time."""

_P = ParamSpec("_P")
_PING: Final = frames.ping_frame()
_log: Final = structlog.get_logger("tocsin.gateways")


class WebSocketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a connection: bytes and seconds (docs/wire.md, Common rules and WebSocket).

    `idle_limit` and `connection_life` of 0 are none.
    """

    max_message: int = frames.MAX_MESSAGE
    early_limit: int = 65_536
    write_high: int = 1_048_576
    write_low: int = 262_144
    authorize_timeout: float = 10.0
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    stall_timeout: float = 30.0
    close_timeout: float = 5.0
    idle_limit: float = 0.0
    connection_life: float = 0.0


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


class State(enum.Enum):
    """Where a connection is in its life; only an OPEN one is idle, the others are on the clock."""

    OPENING = "authorize is pending"
    OPEN = "messages go both ways"
    STALLED = "the peer does not read"
    CLOSING = "a close frame was sent"
    CLOSED = "refused or gone"


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

    def __init__(self, keepalive: "Keepalive", send: Callable[[bytes], None]) -> None:
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
        self, application: Application, keepalive: "Keepalive", peer: str, on_lost: Callable[[str], None]
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
            log_failure("authorize failed", error)
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
            log_failure("connection failed", error)
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


class Keepalive:
    """The clocks of all connections in one sweep: pings in turn, and deadlines for those that are not OPEN.

    Call `sweep` every `tick` seconds. The connections stand in buckets, one pinged after the other, so that an
    interval's pings are spread over it; a bucket's moment is all that must be remembered of its members' pings. In the
    same way the idle and the old are looked for, bucket by bucket, 60 times within the shorter of the two limits.
    """

    def __init__(
        self, settings: WebSocketSettings, clock: Callable[[], float], refused: Callable[[str], None] = lambda _: None
    ) -> None:
        """`refused` hears the code of each upgrade that is refused."""
        self.settings: Final = settings
        self.refused: Final = refused
        self.now = clock()
        self.tick: Final = min(0.25, settings.ping_interval / BUCKETS, settings.close_timeout / 10)
        self._clock: Final = clock
        self._buckets: Final[tuple[set[WebSocketConnection], ...]] = tuple(set() for _ in range(BUCKETS))
        self._joining = 0
        self._turn = 0
        self._next_ping = self.now
        self._pinged: deque[tuple[float, float, int]] = deque()  # when it is due, when it was sent, bucket
        shortest = min(filter(None, (settings.idle_limit, settings.connection_life)), default=math.inf)
        self._look_interval: Final = max(self.tick, shortest / 60)
        self._next_look = self.now + self._look_interval
        self._look_turn = 0
        self._watched: dict[WebSocketConnection, tuple[float, int]] = {}  # since when, what was unsent then

    def __iter__(self) -> Iterator[WebSocketConnection]:
        """Every accepted connection; a snapshot."""
        return iter([connection for bucket in self._buckets for connection in bucket])

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def opening(self) -> list[WebSocketConnection]:
        """The connections whose `authorize` is pending."""
        return [connection for connection in self._watched if connection.state is State.OPENING]

    def add(self, connection: WebSocketConnection) -> None:
        """Ping an accepted connection from now on; its bucket is the next in turn, not one for all of a storm."""
        self.unwatch(connection)
        connection.bucket = self._joining = (self._joining + 1) % BUCKETS
        self._buckets[connection.bucket].add(connection)

    def discard(self, connection: WebSocketConnection) -> None:
        self.unwatch(connection)
        self._buckets[connection.bucket].discard(connection)

    def watch(self, connection: WebSocketConnection) -> None:
        """Start the clock of the state that the connection is in now."""
        self._watched[connection] = (self._clock(), connection.unsent)

    def unwatch(self, connection: WebSocketConnection) -> None:
        self._watched.pop(connection, None)

    def sweep(self, now: float) -> None:
        """Do what is due at `now`. A sweep that comes very late was our silence, and moves every deadline."""
        late = now - self.now
        self.now = now
        if late > self.settings.ping_timeout / 4:
            self._forgive(late)
        self._ping(now)
        while self._pinged and self._pinged[0][0] <= now:
            _, sent, bucket = self._pinged.popleft()
            for connection in tuple(self._buckets[bucket]):
                connection.end_if_silent(sent)
        self._end_overdue(now)
        for connection, (since, unsent) in tuple(self._watched.items()):
            self._judge(connection, now, since, unsent)

    def _ping(self, now: float) -> None:
        while self._next_ping <= now:
            self._turn = (self._turn + 1) % BUCKETS
            self._next_ping += self.settings.ping_interval / BUCKETS
            bucket = self._buckets[self._turn]
            if bucket:
                self._pinged.append((now + self.settings.ping_timeout, now, self._turn))
                for connection in tuple(bucket):
                    connection.ping()

    def _end_overdue(self, now: float) -> None:
        while self._next_look <= now:
            self._look_turn = (self._look_turn + 1) % BUCKETS
            self._next_look += self._look_interval / BUCKETS
            for connection in tuple(self._buckets[self._look_turn]):
                connection.end_if_overdue(now)

    def _judge(self, connection: WebSocketConnection, now: float, since: float, unsent: int) -> None:
        settings = self.settings
        match connection.state:
            case State.OPENING if now - since >= settings.authorize_timeout - self.tick:  # the next would be too late
                connection.refuse(Refusal("unavailable", "The upgrade took too long; try again.", retry_after=1))
            case State.STALLED if connection.unsent < unsent:
                self.watch(connection)
            case State.STALLED if now - since >= settings.stall_timeout:
                connection.close(CloseCode.TOO_SLOW, "Read faster, or subscribe to less.")
            case State.STALLED:
                self._watched[connection] = (since, connection.unsent)
            case State.CLOSING if now - since >= settings.close_timeout:
                connection.abort()

    def _forgive(self, late: float) -> None:
        self._next_ping += late
        self._next_look += late
        for connection in self:
            connection.forgive(late)
        self._pinged = deque((due + late, sent, bucket) for due, sent, bucket in self._pinged)
        self._watched = {connection: (since + late, unsent) for connection, (since, unsent) in self._watched.items()}


def log_failure(event: str, error: BaseException) -> None:
    """Log a defect: what kind and where, not its text."""
    lines = traceback.extract_tb(error.__traceback__)[-5:]
    at = [f"{PurePath(line.filename).name}:{line.lineno} {line.name}" for line in lines]
    _log.error(event, error=type(error).__name__, at=at)


def _discard(frames: bytes) -> None:
    """The `write` of a connection that is not open."""
