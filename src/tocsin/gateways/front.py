"""The one port: it listens, looks at all connections once a tick, and ends them.

    listen -> HeadReader: a head -> an ordinary upgrade of the base path -> WebSocketConnection
                   ^             -> all else, byte for byte              -> HttpConnection (uvicorn's) -> the ASGI app
                   |---- what may be an upgrade, or has a strange method, when nothing is owed ----|
    the tick -> Keepalive.sweep; unfinished heads and bodies are cut; who takes no answer is cut

Rule: whoever is here ends with the front, told so if there is time: requests are finished, WebSockets are sent away.
"""

import asyncio
import errno
import math
import os
import socket
from pathlib import Path
from typing import cast

from tocsin.errors import CloseCode, Refusal
from tocsin.gateways.head_reader import HeadReader
from tocsin.gateways.http_connection import HttpConnection
from tocsin.gateways.port import Port


class Front(Port):
    """A port that listens."""

    _servers: tuple[asyncio.Server, ...] = ()
    _paths: tuple[Path, ...] = ()
    _timer: asyncio.TimerHandle | None = None
    _next_round = -math.inf

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
        self._paths = (*self._paths, path)

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
        server = await create(lambda: HeadReader(self), sock=listener, backlog=self.settings.backlog)
        self._servers = (*self._servers, server)
        if self._timer is None:
            self._tick()

    def http_connections(self) -> tuple[HttpConnection, ...]:
        """A snapshot of the connections that uvicorn's protocol serves."""
        return cast("tuple[HttpConnection, ...]", tuple(self.uvicorn.connections))

    # Time

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.keepalive.tick, self._tick)
        self.sweep(self.clock())

    def sweep(self, now: float) -> None:
        """Do what is due at `now`."""
        self.keepalive.sweep(now)
        if now >= self._next_round:
            self._next_round = now + self.round
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
        self.admit_no_more()
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
                await self.empty.wait()
                while self.uvicorn.tasks:
                    await asyncio.wait(self.uvicorn.tasks)
        except TimeoutError:
            self._abort()
            await self.empty.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _abort(self) -> None:
        here = (*self.arrivals, *self.keepalive.opening(), *self.keepalive, *self.http_connections())
        for connection in here:
            connection.abort()
        for task in tuple(self.uvicorn.tasks):
            task.cancel()


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
