"""The clocks over all WebSockets of a port: pings, and an end to the silent, the stalled, the slow to close, the idle
and the old.

    front, every `tick` seconds -> Keepalive.sweep -> WebSocketConnection.ping, end_if_silent, end_if_overdue, close …
    WebSocketConnection -> add, watch, unwatch, discard

Rules:
- no connection has a timer of its own: what must be remembered of many is remembered once;
- a sweep that comes late is our own silence, and held against nobody.
"""

import enum
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from tocsin.errors import CloseCode, Refusal
from tocsin.gateways import frames

BUCKETS: Final = 100
"""Shares of the connections that are pinged at the same time."""


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


class State(enum.Enum):
    """Where a connection is in its life; only an OPEN one is idle, the others are on the clock."""

    OPENING = "authorize is pending"
    OPEN = "messages go both ways"
    STALLED = "the peer does not read"
    CLOSING = "a close frame was sent"
    CLOSED = "refused or gone"


class Kept(Protocol):
    """What the clocks ask of a connection."""

    bucket: int
    state: State

    @property
    def unsent(self) -> int: ...
    def refuse(self, refusal: Refusal) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
    def abort(self) -> None: ...
    def ping(self) -> None: ...
    def end_if_silent(self, since: float) -> None: ...
    def end_if_overdue(self, now: float) -> None: ...
    def forgive(self, late: float) -> None: ...


KeptT = TypeVar("KeptT", bound=Kept)


class Keepalive(Generic[KeptT]):
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
        self._buckets: Final[tuple[set[KeptT], ...]] = tuple(set() for _ in range(BUCKETS))
        self._joining = 0
        self._turn = 0
        self._next_ping = self.now
        self._pinged: deque[tuple[float, float, int]] = deque()  # when it is due, when it was sent, bucket
        shortest = min(filter(None, (settings.idle_limit, settings.connection_life)), default=math.inf)
        self._look_interval: Final = max(self.tick, shortest / 60)
        self._next_look = self.now + self._look_interval
        self._look_turn = 0
        self._watched: dict[KeptT, tuple[float, int]] = {}  # since when, what was unsent then

    def __iter__(self) -> Iterator[KeptT]:
        """Every accepted connection; a snapshot."""
        return iter([connection for bucket in self._buckets for connection in bucket])

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def opening(self) -> list[KeptT]:
        """The connections whose `authorize` is pending."""
        return [connection for connection in self._watched if connection.state is State.OPENING]

    def add(self, connection: KeptT) -> None:
        """Ping an accepted connection from now on; its bucket is the next in turn, not one for all of a storm."""
        self.unwatch(connection)
        connection.bucket = self._joining = (self._joining + 1) % BUCKETS
        self._buckets[connection.bucket].add(connection)

    def discard(self, connection: KeptT) -> None:
        self.unwatch(connection)
        self._buckets[connection.bucket].discard(connection)

    def watch(self, connection: KeptT) -> None:
        """Start the clock of the state that the connection is in now."""
        self._watched[connection] = (self._clock(), connection.unsent)

    def unwatch(self, connection: KeptT) -> None:
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

    def _judge(self, connection: KeptT, now: float, since: float, unsent: int) -> None:
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
