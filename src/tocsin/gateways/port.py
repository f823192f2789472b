"""What all connections of one port share: its limits, who is here, what stands behind it, and the time.

    front: a Port that listens, sweeps and ends -> head_reader -> http_connection | websocket: each has the Port

Rule: a stranger's connection is counted before a byte of it is read, for its address and for all.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, cast

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tocsin.errors import Refusal
from tocsin.gateways.addresses import Addresses
from tocsin.gateways.keepalive import Keepalive, WebSocketSettings
from tocsin.gateways.websocket import Application, WebSocketConnection

if TYPE_CHECKING:
    from tocsin.gateways.http_connection import HttpConnection

T = TypeVar("T")

_SPARE_FILES: Final = 256
"""Descriptors that connections may not take: the store's, the logs'."""


class PortSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a port: bytes, seconds, numbers of connections (docs/wire.md, Common rules).

    `trusted_proxies` are networks in CIDR notation; `connections` of None is what the process's open files allow.
    """

    base_path: str = "/dvl"
    trusted_proxies: tuple[str, ...] = ()
    connections_per_address: int = 1_000
    connections: int | None = None
    max_head: int = 65_536
    request_timeout: float = 10.0
    idle_timeout: float = 75.0
    send_buffer: int = 131_072
    unread: int = 256 * 1024 * 1024
    bodies: int = 256 * 1024 * 1024
    backlog: int = 4_096
    websocket: WebSocketSettings = WebSocketSettings()


class Arrival(Protocol):
    """A connection whose head is not whole yet."""

    def sweep(self, now: float) -> None: ...
    def abort(self) -> None: ...


class Backlog(Generic[T]):
    """Bytes that connections make us keep. All together have a bound; beyond it who has kept his longest gives way."""

    def __init__(self, room: int) -> None:
        self._room: Final = room
        self._sizes: Final[dict[T, int]] = {}
        self._total = 0

    def keep(self, connection: T, size: int) -> Sequence[T]:
        """It has so many now. Those who have to give way; one alone does not."""
        self._total += size - self._sizes.get(connection, 0)
        self._sizes[connection] = size
        cut: list[T] = []
        while self._total > self._room and len(self._sizes) > 1:
            cut.append(next(iter(self._sizes)))
            self.forget(cut[-1])
        return cut

    def forget(self, connection: T) -> None:
        self._total -= self._sizes.pop(connection, 0)


class Port:
    """`http` gets no lifespan events. Without `websocket` every request is plain HTTP."""

    def __init__(
        self,
        http: ASGIApp,
        websocket: Application | None = None,
        *,
        new_id: Callable[[], str],
        settings: PortSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`refused` hears the code of each refusal that is answered here, and not by the application `http`."""
        self.settings: Final = settings or PortSettings()
        self.websocket: Final = websocket
        self.new_id: Final = new_id
        self.addresses: Final = Addresses(self.settings.trusted_proxies)
        self.refused: Final = refused
        self.clock: Final = clock
        self.keepalive: Final[Keepalive[WebSocketConnection]] = Keepalive(self.settings.websocket, clock, refused)
        self.arrivals: Final[set[Arrival]] = set()
        #: Answers that wait to be taken, and large bodies that are not whole yet.
        self.unread: Final[Backlog[HttpConnection]] = Backlog(self.settings.unread)
        self.bodies: Final[Backlog[HttpConnection]] = Backlog(self.settings.bodies)
        self.uvicorn: Final = ServerState()
        self.config: Final = uvicorn.Config(
            http,
            http=HttpToolsProtocol,
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            forwarded_allow_ips=[],
            workers=1,
            timeout_keep_alive=cast("int", self.settings.idle_timeout),  # a float will do
        )
        self.config.load()
        #: Seconds between two looks at what is not whole yet.
        self.round: Final = self.settings.request_timeout / 20
        #: How old a head or body may be when it is looked at. What would be too old at the next look is cut at this.
        self.patience: Final = self.settings.request_timeout - self.round - self.keepalive.tick
        #: Set while nobody is here.
        self.empty: Final = asyncio.Event()
        self.empty.set()
        path = self.settings.base_path.encode()
        self._upgrades: Final = (b"GET %b?" % path, b"GET %b " % path) if websocket is not None else ()
        self._limit = self.settings.connections or _files_for_connections()
        self._open = 0

    @property
    def now(self) -> float:
        """The time of the last sweep: near enough for seconds, and free."""
        return self.keepalive.now

    def enter(self, address: str) -> None:
        """Count a new connection; "" is the address of a unix socket's peer."""
        self._open += 1
        self.empty.clear()
        self.addresses.enter(address)

    def leave(self, address: str) -> None:
        self._open -= 1
        self.addresses.leave(address)
        if not self._open:
            self.empty.set()

    def admit_no_more(self) -> None:
        """Who was accepted but is not here yet comes too late."""
        self._limit = 0

    def overcrowded(self, address: str) -> bool:
        """Whether a new connection is cut unheard: files run out, or the address was told 429 often enough."""
        return self._open > self._limit or self.addresses.count(address) > 2 * self.settings.connections_per_address

    def crowd(self, address: str) -> Refusal | None:
        """The refusal for a connection whose address has too many."""
        if self.addresses.count(address) <= self.settings.connections_per_address:
            return None
        return Refusal("rate_limited", "Too many connections from this address.", retry_after=1)

    def may_be_upgrade(self, begun: bytes) -> bool:
        """Whether what begins so may be a request for where WebSockets are opened."""
        return any(begun.startswith(start) or start.startswith(begun) for start in self._upgrades)


def _files_for_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(files // 2, files - _SPARE_FILES)
