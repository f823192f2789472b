"""The one port: who comes, and whether a request is an upgrade or plain HTTP.

    listen -> HeadReader: a head -> an ordinary upgrade of the base path -> WebSocketConnection
                   ^             -> all else, byte for byte              -> HttpConnection (uvicorn's) -> the ASGI app
                   |----- what may be an upgrade or a strange method, when nothing is owed ------|
    the tick -> Keepalive.sweep; unfinished heads and bodies are cut; who takes no answer is cut

Rules:
- A stranger's connection is counted before a byte of it is read, and everything it can make grow has an end: heads in
  bytes and seconds, bodies in seconds, requests ahead of their turn in number, connections for each address and in all.
- An error is answered here only if nothing else is owed an answer: a 4xx says that nothing was done, and an earlier
  request on the same connection may be doing it.
- `set_protocol` comes first and the bytes after it; then neither is lost.

Long because who is counted, what is cut and how all ends are decisions over both kinds of connection at once.
"""

import asyncio
import errno
import functools
import ipaddress
import os
import re
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, cast

import httptools
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tocsin.errors import CloseCode, Refusal
from tocsin.gateways.handshake import UpgradeRequest, parse_upgrade, render_refusal, requested_id
from tocsin.gateways.websocket import Application, Keepalive, WebSocketConnection, WebSocketSettings

MAX_PIPELINED: Final = 16
"""Requests that a client may send ahead of their answers."""
_SERVED: Final = (b"GET ", b"POST ", b"DELETE ", b"HEAD ", b"OPTIONS ")
"""How requests begin that the parser reads as they are."""
_STRANGE: Final = b"PATCH"
"""What the parser, which knows only some methods, is told instead of one that is not served. It is not, either."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(rb"[!-~]*")
_VERSIONS: Final = (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")
_MAX_LINE: Final = 8_192
"""Bytes of a request line with a method that is not served."""
_SPARE_FILES: Final = 256
"""Descriptors that connections may not take: the store's, the logs'."""


class FrontSettings(msgspec.Struct, frozen=True, kw_only=True):
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
    backlog: int = 4_096
    websocket: WebSocketSettings = WebSocketSettings()


class Addresses:
    """Whose a connection is, and how many of each there are."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks: Final = tuple(ipaddress.ip_network(network) for network in trusted)
        self._counts: Final[dict[str, int]] = {}
        self.trusts: Final = functools.lru_cache(4_096)(self._trusts)

    def _trusts(self, address: str) -> bool:
        ip = _ip(address)
        return ip is not None and any(ip in network for network in self._networks)

    def peer(self, address: str, forwarded: Iterable[str]) -> str:
        """The right-most address of X-Forwarded-For that no trusted proxy has; `forwarded` are its lines in order.

        Each proxy adds whom it heard from. What stands left of the first stranger is only that stranger's word.
        """
        hops = [hop for line in forwarded for hop in line.split(",")]
        while hops and self.trusts(address):
            ip = _ip(hops.pop())
            if ip is None:
                break
            address = str(ip)
        return address

    def enter(self, address: str) -> None:
        self._counts[address] = self._counts.get(address, 0) + 1

    def leave(self, address: str) -> None:
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]

    def count(self, address: str) -> int:
        """How many connections a stranger's address has; a proxy's, or a unix socket's, are nobody's: 0."""
        return 0 if not address or self.trusts(address) else self._counts.get(address, 0)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


class Front:
    """Listens, and keeps what all connections share. `http` gets no lifespan events.

    Without `websocket` every request is plain HTTP.
    """

    def __init__(
        self,
        http: ASGIApp,
        websocket: Application | None = None,
        *,
        new_id: Callable[[], str],
        settings: FrontSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`refused` hears the code of each refusal that is answered here, and not by the application `http`."""
        self.settings: Final = settings or FrontSettings()
        self.websocket: Final = websocket
        self.new_id: Final = new_id
        self.addresses: Final = Addresses(self.settings.trusted_proxies)
        self.refused: Final = refused
        self.keepalive: Final = Keepalive(self.settings.websocket, clock, refused)
        self.arrivals: Final[set[HeadReader]] = set()
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
        path = self.settings.base_path.encode()
        self._upgrades: Final = (b"GET %b?" % path, b"GET %b " % path) if websocket is not None else ()
        self._limit = self.settings.connections or _files_for_connections()
        self._clock = clock
        self._open = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._servers: list[asyncio.Server] = []
        self._paths: list[Path] = []
        self._timer: asyncio.TimerHandle | None = None
        self._round = self.settings.request_timeout / 20
        self._next_round = self.keepalive.now
        #: How old a head or body may be at a sweep. What would be too old at the next one is cut at this.
        self.patience: Final = self.settings.request_timeout - self._round - self.keepalive.tick

    @property
    def now(self) -> float:
        """The time of the last sweep: near enough for seconds, and free."""
        return self.keepalive.now

    # Listening

    async def start(self, host: str, port: int) -> int:
        """Listen on every address of `host`; the port (0 picks a free one). Raises OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        absent: OSError | None = None
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                listener = self._listener(family, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # a name may have an address of a family that this machine does not have
            else:
                port = listener.getsockname()[1]
                await self._serve(listener)
        if absent is not None and not self._servers:
            raise absent
        return port

    async def start_unix(self, path: Path) -> None:
        """Listen on a socket file that only its owner can open, from its first moment. Raises OSError."""
        await self._serve(_unix_listener(path))
        self._paths.append(path)

    def _listener(self, family: int, address: tuple[object, ...]) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit it. Left to itself the kernel hides a slow reader behind 4 MiB.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.settings.send_buffer)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        self._servers.append(await create(lambda: HeadReader(self), sock=listener, backlog=self.settings.backlog))
        if self._timer is None:
            self._tick()

    # Who is here

    def enter(self, address: str) -> None:
        """Count a new connection; "" is the address of a unix socket's peer."""
        self._open += 1
        self._empty.clear()
        self.addresses.enter(address)

    def leave(self, address: str) -> None:
        self._open -= 1
        self.addresses.leave(address)
        if not self._open:
            self._empty.set()

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

    def http_connections(self) -> tuple["HttpConnection", ...]:
        """A snapshot of the connections that uvicorn's protocol serves."""
        return cast("tuple[HttpConnection, ...]", tuple(self.uvicorn.connections))

    # Time

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.keepalive.tick, self._tick)
        self.sweep(self._clock())

    def sweep(self, now: float) -> None:
        """Do what is due at `now`."""
        self.keepalive.sweep(now)
        if now >= self._next_round:
            self._next_round = now + self._round
            for reader in tuple(self.arrivals):
                reader.sweep(now)
            for connection in self.http_connections():
                connection.sweep(now)

    # The end

    async def dismiss(self, *, retry_within: float = 5.0, per_second: int = 5_000) -> None:
        """Close every WebSocket with 1012, at a pace, and spread their return over `retry_within` seconds."""
        for connection in self.keepalive.opening():
            connection.refuse(Refusal("unavailable", "The service restarts.", retry_after=retry_within))
        connections = tuple(self.keepalive)
        for index, connection in enumerate(connections):
            delay = round(1_000 * retry_within * index / len(connections))
            connection.close(CloseCode.RESTART, f"retryAfter={delay}")
            if index % 100 == 99:
                await asyncio.sleep(100 / per_second)

    async def stop(self, within: float, *, retry_within: float = 5.0) -> None:
        """Listen no more, let requests finish and WebSockets say goodbye; what is left after `within` s is cut."""
        self._limit = 0  # who was accepted but is not here yet comes too late
        for server in self._servers:
            server.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        for reader in tuple(self.arrivals):
            reader.abort()
        for connection in self.http_connections():
            connection.shutdown()
        try:
            async with asyncio.timeout(within):
                await self.dismiss(retry_within=retry_within)
                await self._empty.wait()
                while self.uvicorn.tasks:
                    await asyncio.wait(self.uvicorn.tasks)
        except TimeoutError:
            self._abort()
            await self._empty.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _abort(self) -> None:
        here = (*self.arrivals, *self.keepalive.opening(), *self.keepalive, *self.http_connections())
        for connection in here:
            connection.abort()
        for task in tuple(self.uvicorn.tasks):
            task.cancel()


def _files_for_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(files // 2, files - _SPARE_FILES)


def _unix_listener(path: Path) -> socket.socket:
    if path.is_socket():
        path.unlink()  # a service that was killed left it; whoever calls holds the folder's lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


class HeadReader(asyncio.Protocol):
    """Reads one head, a connection's first, then hands transport and bytes to the protocol that they are for."""

    __slots__ = ("_crowd", "_front", "_since", "_transport", "_unread", "peer")

    def __init__(self, front: Front) -> None:
        self._front = front
        self._since = front.now
        self._transport: asyncio.Transport
        self._unread: bytearray | None = None
        self._crowd: Refusal | None = None  # decided in the order of arrival, said when the head is there
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = name[0]
        self._front.arrivals.add(self)
        self._front.enter(self.peer)
        self._crowd = self._front.crowd(self.peer)
        if self._front.overcrowded(self.peer):
            self.abort()

    def take_over(self, transport: asyncio.Transport, peer: str, read: bytes) -> None:
        """Read another head, which begins with `read`, on a connection that has been counted."""
        self._transport = transport
        self.peer = peer
        self._front.arrivals.add(self)
        transport.set_protocol(self)
        self.data_received(read)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.arrivals.discard(self)
        self._front.leave(self.peer)

    def data_received(self, data: bytes) -> None:
        searched = 0
        if self._unread is not None:
            searched = max(0, len(self._unread) - 3)
            self._unread += data
        read = data if self._unread is None else self._unread
        end = read.find(b"\r\n\r\n", searched) + 4
        if not b"GET ".startswith(read[:4]):
            self._pass_on(bytes(read))
        elif (len(read) if end < 4 else end) > self._front.settings.max_head:
            self._refuse(_head_too_large())
        elif end >= 4:
            self._decide(bytes(read), end)
        elif self._unread is None:
            self._unread = bytearray(data)

    def _pass_on(self, read: bytes) -> None:
        """To the parser, which knows at once what it is, or that it is nothing; with a method that it knows."""
        line, complete, _ = read.partition(b"\n")
        if read.startswith(_SERVED) or len(line) > _MAX_LINE or not _is_request_line(line + complete):
            self._hand_to_http(read)
        elif complete:
            method, _, rest = read.partition(b" ")
            self._hand_to_http(_STRANGE + b" " + rest, method.decode())
        else:
            self._unread = bytearray(read)

    def _decide(self, read: bytes, end: int) -> None:
        front = self._front
        request = parse_upgrade(read[:end]) if front.websocket is not None else None
        if request is None or request.path != front.settings.base_path:
            self._hand_to_http(read)
        else:
            self._hand_to_websocket(request, read[end:])

    def _hand_to_websocket(self, request: UpgradeRequest, early: bytes) -> None:
        front = self._front
        assert front.websocket is not None
        peer = front.addresses.peer(self.peer, request.header_values("x-forwarded-for"))
        if peer != self.peer:
            front.addresses.leave(self.peer)
            front.addresses.enter(peer)
            self.peer, self._crowd = peer, front.crowd(peer)
        request_id = requested_id(request.header_values("x-request-id"), front.new_id)
        if self._crowd is not None:
            self._refuse(self._crowd, request_id)
            return
        connection = WebSocketConnection(front.websocket, front.keepalive, peer, front.leave)
        front.arrivals.discard(self)
        self._transport.set_protocol(connection)
        connection.open(self._transport, request, request_id, early)

    def _hand_to_http(self, read: bytes, method: str | None = None) -> None:
        front = self._front
        connection = HttpConnection(front, self.peer, self._crowd, method)
        front.arrivals.discard(self)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        connection.data_received(read)

    def _refuse(self, refusal: Refusal, request_id: str | None = None) -> None:
        self._front.refused(refusal.code)
        self._transport.write(render_refusal(refusal, request_id or self._front.new_id()))
        self._transport.close()

    def sweep(self, now: float) -> None:
        """Cut a head that takes too long."""
        if now - self._since >= self._front.patience and not self._transport.is_closing():
            self._refuse(_too_slow())

    def abort(self) -> None:
        self._transport.abort()


class HttpConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with our limits and our errors.

    The application must not act on a POST before it has the whole body: then a body that does not come is a 408.
    """

    def __init__(self, front: Front, peer: str, refusal: Refusal | None, method: str | None) -> None:
        super().__init__(front.config, front.uvicorn, {})
        self._front = front
        self._peer = peer
        self._refusal = refusal  # what the next head is answered, whatever it asks
        self._method = method  # the next request's, if the parser was told another
        self._since: float | None = front.now  # when the head or body began that is not whole yet
        self._in_body = False
        self._head = 0  # bytes of an unfinished head, those of its first read left out
        self._ended = False  # nothing more is read
        self._unsent = 0
        self._moved = front.now  # when the peer last took something, or nothing was to be taken

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._front.leave(self._peer)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._is_idle and (not data.startswith(_SERVED) or self._front.may_be_upgrade(data)):
            self._give_back(data)
        else:
            self._parse(data)

    def _give_back(self, data: bytes) -> None:
        """Let a head be read like a connection's first: proxies keep connections, and upgrade any of them."""
        self.connections.discard(self)
        del self.parser  # which holds this object, too
        HeadReader(self._front).take_over(self.transport, self._peer, data)

    def _parse(self, data: bytes) -> None:
        if not self._in_body:
            self._head += len(data)
        while data and not self._ended:
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]  # to what we do not speak: the request is answered like any other
            except httptools.HttpParserError:
                self._refuse(self._refusal or Refusal("bad_request", "This is not an HTTP/1.1 request."))
        if self._since is not None and not self._in_body and self._head > self._front.settings.max_head:
            self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._since, self._head = self._front.now, 0

    def on_headers_complete(self) -> None:
        front, version = self._front, self.parser.get_http_version()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > front.settings.max_head:
            self._refusal = _head_too_large()
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = Refusal("rate_limited", "Too many requests ahead of their answers.", retry_after=1)
        elif version not in ("1.1", "1.0"):
            self._refusal = Refusal("bad_request", "HTTP/1.1 and HTTP/1.0 are spoken here, and no other version.")
        elif version == "1.1" and len(self._header_values(b"host")) != 1:
            self._refusal = Refusal("bad_request", "A request has one Host header.")  # RFC 9112 section 3.2
        if self._refusal is not None:
            raise httptools.HttpParserError  # stops the parser; `data_received` answers
        if self._peer and front.addresses.trusts(self._peer):
            self.scope["client"] = (front.addresses.peer(self._peer, self._header_values(b"x-forwarded-for")), 0)
        super().on_headers_complete()
        if self._method is not None:
            self.scope["method"], self._method = self._method, None
        self._since, self._in_body = front.now, True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._since, self._in_body = None, False

    @property
    def _is_idle(self) -> bool:
        """Whether nothing of a request is there, and no answer to one is owed."""
        return self._since is None and not self._ended and not self._owes_answer

    @property
    def _owes_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _header_values(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for header, value in self.headers or () if header == name]

    def _refuse(self, refusal: Refusal) -> None:
        """Read no more. Answer what was being read, if nothing else is owed an answer and nothing was done."""
        if self._ended:
            return
        self._ended, self._since = True, None
        if not self._in_body and not self._owes_answer:
            self._answer(refusal)
        elif not self._in_body:
            self.cycle.keep_alive = False  # the last answer that is owed closes the connection
        elif self.cycle.response_complete:
            self.transport.close()
        elif self.cycle.response_started or self.pipeline or self.scope["method"] != "POST":
            self.transport.abort()  # it may have been done: the peer must take it for unknown
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._answer(refusal)

    def abort(self) -> None:
        self.transport.abort()

    def _answer(self, refusal: Refusal) -> None:
        request_id = requested_id(self._header_values(b"x-request-id"), self._front.new_id)
        self._front.refused(refusal.code)
        self.transport.write(render_refusal(refusal, request_id))
        self.transport.close()

    def sweep(self, now: float) -> None:
        """Cut a head or body that takes too long, unless it is we who do not read; and who takes no answer."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._moved = now
        self._unsent = unsent
        if now - self._moved >= self._front.settings.websocket.stall_timeout:
            self.transport.abort()
        elif self._since is not None and self.flow.read_paused:
            self._since = now
        elif self._since is not None and now - self._since >= self._front.patience:
            self._refuse(_too_slow())


def _is_request_line(begun: bytes) -> bool:
    """Whether it is one of HTTP/1, its end included, or may become one (RFC 9112 section 3)."""
    method, target, version = (*begun.split(b" ", 2), b"", b"")[:3]
    is_version = any(each.startswith(version) for each in _VERSIONS)
    return is_version and bool(_TOKEN.fullmatch(method) and _TARGET.fullmatch(target))


def _head_too_large() -> Refusal:
    return Refusal("bad_request", "The request head is too large.", status=431)


def _too_slow() -> Refusal:
    return Refusal("bad_request", "The request took too long to come.", status=408)
