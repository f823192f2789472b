"""What a connection says first, and so to whom it goes: a WebSocket's upgrade, or plain HTTP.

    front: accepted -> HeadReader: a head -> an ordinary upgrade of the base path -> WebSocketConnection
                                          -> all else, byte for byte              -> HttpConnection
    HttpConnection, nothing owed -> read_anew

Rules:
- Everything that a stranger can make grow has an end: a head in bytes and seconds, its address's connections in number.
- `set_protocol` comes first and the bytes after it; then neither is lost.
- The parser of HTTP knows a closed list of methods. What a method is called says nothing of how its body ends, so a
  strange one is read like one that it knows, and the application refuses it by its own name.
"""

import asyncio
import re
from typing import Final, cast

from tocsin.errors import Refusal
from tocsin.gateways.handshake import UpgradeRequest, parse_upgrade, render_refusal, requested_id
from tocsin.gateways.http_connection import SERVED, HttpConnection, head_too_large, too_slow
from tocsin.gateways.port import Port
from tocsin.gateways.websocket import WebSocketConnection

_STRANGE: Final = b"PATCH"
"""What the parser is told instead of a method that is not served. It is not, either."""
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(rb"[!-~]*")
_VERSIONS: Final = (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")
_MAX_LINE: Final = 8_192
"""Bytes of a request line with a method that is not served."""


class HeadReader(asyncio.Protocol):
    """Hands transport and bytes to the protocol that they are for, once a head is there, or cannot become one."""

    __slots__ = ("_crowd", "_port", "_since", "_transport", "_unread", "peer")

    def __init__(self, port: Port) -> None:
        self._port = port
        self._since = port.now
        self._transport: asyncio.Transport
        self._unread: bytearray | None = None
        self._crowd: Refusal | None = None  # decided in the order of arrival, said when the head is there
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = name[0]
        self._port.arrivals.add(self)
        self._port.enter(self.peer)
        self._crowd = self._port.crowd(self.peer)
        if self._port.overcrowded(self.peer):
            self.abort()

    def read_anew(self, read: bytes) -> None:
        """Read another head, which begins with `read`, on a connection that was handed over and is given back."""
        self._since, self._crowd = self._port.now, None
        self._port.arrivals.add(self)
        self._transport.set_protocol(self)
        self.data_received(read)

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.arrivals.discard(self)
        self._port.leave(self.peer)

    def data_received(self, data: bytes) -> None:
        searched = 0
        if self._unread is not None:
            searched = max(0, len(self._unread) - 3)
            self._unread += data
        read = data if self._unread is None else self._unread
        end = read.find(b"\r\n\r\n", searched) + 4
        if not b"GET ".startswith(read[:4]):
            self._pass_on(bytes(read))
        elif (len(read) if end < 4 else end) > self._port.settings.max_head:
            self._refuse(head_too_large())
        elif end >= 4:
            self._decide(bytes(read), end)
        elif self._unread is None:
            self._unread = bytearray(data)

    def _pass_on(self, read: bytes) -> None:
        """To the parser, which knows at once what it is, or that it is nothing; with a method that it knows."""
        line, complete, _ = read.partition(b"\n")
        if read.startswith(SERVED) or len(line) > _MAX_LINE or not _is_request_line(line + complete):
            self._hand_to_http(read)
        elif complete:
            method, _, rest = read.partition(b" ")
            self._hand_to_http(_STRANGE + b" " + rest, method.decode())
        else:
            self._unread = bytearray(read)

    def _decide(self, read: bytes, end: int) -> None:
        port = self._port
        request = parse_upgrade(read[:end]) if port.websocket is not None else None
        if request is None or request.path != port.settings.base_path:
            self._hand_to_http(read)
        else:
            self._hand_to_websocket(request, read[end:])

    def _hand_to_websocket(self, request: UpgradeRequest, early: bytes) -> None:
        port = self._port
        assert port.websocket is not None
        peer = port.addresses.peer(self.peer, request.header_values("x-forwarded-for"))
        if peer != self.peer:
            port.addresses.leave(self.peer)
            port.addresses.enter(peer)
            self.peer, self._crowd = peer, port.crowd(peer)
        request_id = requested_id(request.header_values("x-request-id"), port.new_id)
        if self._crowd is not None:
            self._refuse(self._crowd, request_id)
            return
        connection = WebSocketConnection(port.websocket, port.keepalive, peer, port.leave)
        port.arrivals.discard(self)
        self._transport.set_protocol(connection)
        connection.open(self._transport, request, request_id, early)

    def _hand_to_http(self, read: bytes, method: str | None = None) -> None:
        port = self._port
        connection = HttpConnection(port, self.peer, self._crowd, method, self.read_anew)
        self._unread = None
        port.arrivals.discard(self)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        connection.data_received(read)

    def _refuse(self, refusal: Refusal, request_id: str | None = None) -> None:
        self._port.refused(refusal.code)
        self._transport.write(render_refusal(refusal, request_id or self._port.new_id()))
        self._transport.close()

    def sweep(self, now: float) -> None:
        """Cut a head that takes too long."""
        if now - self._since >= self._port.patience and not self._transport.is_closing():
            self._refuse(too_slow())

    def abort(self) -> None:
        self._transport.abort()


def _is_request_line(begun: bytes) -> bool:
    """Whether it is one of HTTP/1, its end included, or may become one (RFC 9112 section 3)."""
    method, target, version = (*begun.split(b" ", 2), b"", b"")[:3]
    is_version = any(each.startswith(version) for each in _VERSIONS)
    return is_version and bool(_TOKEN.fullmatch(method) and _TARGET.fullmatch(target))
