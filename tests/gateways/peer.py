"""A raw client: a plain socket, so that a test decides what is sent and whether anything is read.

Its frames come from the `websockets` library, so that the gateway's own framing is not checked against itself.
"""

import asyncio
import socket
import struct
from typing import Self

import msgspec
from websockets.frames import Frame, Opcode

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{{extra}}\r\n"
)


def upgrade_head(target: str = "/dvl", extra: str = "") -> bytes:
    """An ordinary upgrade; `extra` are header lines, each with its line end."""
    return UPGRADE.format(target=target, extra=extra).encode()


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A client's frame, masked with a random mask."""
    return Frame(Opcode(opcode), payload, final).serialize(mask=True)


def text(message: str | bytes) -> bytes:
    return frame(Opcode.TEXT, message.encode() if isinstance(message, str) else message)


def close(code: int = 1000) -> bytes:
    return frame(Opcode.CLOSE, code.to_bytes(2, "big"))


class Response(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._read = b""

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None = None) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        return cls(sock)

    async def send(self, data: bytes) -> None:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), 10)

    async def upgrade(self, target: str = "/dvl", extra: str = "") -> Response:
        await self.send(upgrade_head(target, extra))
        return await self.response()

    async def read(self) -> bytes:
        """What one read brings; b"" at the end. Raises ConnectionResetError where the front cut it."""
        if self._read:
            read, self._read = self._read, b""
            return read
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 262_144), 10)

    async def exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            held, self._read = self._read, b""
            more = await self.read()
            assert more, f"{size - len(held)} bytes short"
            self._read = held + more
        read, self._read = self._read[:size], self._read[size:]
        return read

    async def response(self) -> Response:
        """An HTTP answer; whatever comes behind it is read next."""
        read = b""
        while b"\r\n\r\n" not in read:
            more = await self.read()
            assert more, f"no answer but {read!r}"
            read += more
        head, _, self._read = read.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.exactly(int(headers.get("content-length", "0")))
        return Response(int(first.split()[1]), headers, body)

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of a server's frame."""
        first, size = await self.exactly(2)
        assert first & 0x80, "a server's frame that is a fragment"
        if size == 126:
            size = int.from_bytes(await self.exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.exactly(8), "big")
        return first & 0x0F, await self.exactly(size)

    async def close_code(self) -> int:
        """The code of the next close frame; other frames are passed over."""
        while True:
            opcode, payload = await self.frame()
            if opcode == Opcode.CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def at_end(self) -> bool:
        """Whether the front has hung up, one way or the other, with nothing more said."""
        try:
            return await self.read() == b""
        except ConnectionResetError:
            return True

    def vanish(self) -> None:
        """Cut the connection without a word: RST, not FIN."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
