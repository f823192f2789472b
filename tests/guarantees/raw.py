"""Bytes as a stranger would send them: a TCP connection without a library's manners."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from tests.guarantees.server import HOST, Service

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
MASK: Final = b"\x01\x02\x03\x04"
#: The header lines of an upgrade.
UPGRADE: Final = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, service.port, limit=1 << 22)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(method: str, target: str, *headers: str, body: bytes = b"", close: bool = True) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", *headers]
    if close:
        lines.append("Connection: close")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def upgrade(target: str, *headers: str) -> bytes:
    return request("GET", target, *UPGRADE, *headers, close=False)


async def exchange(service: Service, sent: bytes, deadline: float = 20.0) -> Answer | None:
    """The answer to one request; None: cut without one."""
    async with asyncio.timeout(deadline), connected(service) as (reader, writer):
        writer.write(sent)
        try:
            return await read_answer(reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            return None


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    status = int(head[0].split()[1])
    length = int(headers.get("content-length", 0)) if status != 101 else 0
    return Answer(status, headers, await reader.readexactly(length))


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    first = (0x80 if final else 0) | reserved | opcode
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = bytes((first, bit | len(payload)))
    elif len(payload) < 65_536:
        head = bytes((first, bit | 126)) + struct.pack("!H", len(payload))
    else:
        head = bytes((first, bit | 127)) + struct.pack("!Q", len(payload))
    if not masked:
        return head + payload
    key = MASK * (len(payload) // 4 + 1)
    return head + MASK + bytes(left ^ right for left, right in zip(payload, key, strict=False))


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and payload of the next frame, which is never masked. The server's own pings may come at any time."""
    while True:
        first, second = await reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await reader.readexactly(8))
        payload = await reader.readexactly(length)
        if first & 0x0F != PING:
            return first & 0x0F, payload


async def read_close(reader: asyncio.StreamReader) -> int:
    """The code of the close frame, whatever comes before it; 1006: none came."""
    try:
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")
    except (ConnectionError, asyncio.IncompleteReadError):
        return 1006
