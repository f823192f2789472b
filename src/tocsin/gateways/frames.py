"""RFC 6455 framing, pure: bytes in, events out; payloads in, frames out. No socket, no clock, no loop.

    socket -> WebSocketConnection -> FrameReader.feed -> events -> the application
    the application -> text_frame, close_frame, ... -> WebSocketConnection -> socket

Rules:
- A stranger's bytes raise nothing: what breaks the protocol is a `Violation`, the last event of its reader.
- A frame is looked at when its header is there and again when it is whole, never between: however small the
  reads, the work grows with the bytes. What a header may not claim is refused before a byte of it is kept.
- Kept are at most one unfinished frame and one unfinished message: twice the limit, and what one read brings.
- An idle reader is five slots; the state of a fragmented message exists only while there is one.
"""

import codecs
from struct import Struct as Layout
from typing import Final

import msgspec

from tocsin.errors import CloseCode

MAX_MESSAGE: Final = 131_072
"""Bytes of a message, all its fragments together (docs/wire.md, Sizes)."""
MAX_FRAGMENTS: Final = 4_096
"""Frames of one message: empty ones cost no memory, but a message must end."""
NO_STATUS: Final = 1005
"""The code of a close frame that names none; never on the wire (section 7.1.5)."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_WHOLE_TEXT: Final = _FIN | TEXT
_MAX_CONTROL: Final = 125


class Binary(msgspec.Struct, frozen=True):
    """A binary message."""

    payload: bytes


class Ping(msgspec.Struct, frozen=True):
    """To be answered by a pong with the same payload (section 5.5.2)."""

    payload: bytes


class Pong(msgspec.Struct, frozen=True):
    """The answer to a ping, or a sign of life that nobody asked for (section 5.5.3)."""

    payload: bytes


class Close(msgspec.Struct, frozen=True):
    """The peer's close frame; `code` is 1005 if it names none. Nothing after it is read."""

    code: int
    reason: str


class Violation(msgspec.Struct, frozen=True):
    """The peer broke the protocol: close with `code` (1002, 1007 or 1009). Nothing after it is read."""

    code: int
    reason: str


Event = bytes | Binary | Ping | Pong | Close | Violation
"""What was read. A text message is its own UTF-8 bytes: the common event is worth no wrapper."""


class _Broken(Exception):
    """Ends the reading from wherever the violation is found. Not itself the event: a traceback holds its frames."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.violation: Final = Violation(code, reason)


class FrameReader:
    """Reads the stream of one client; `feed` it every read, in order."""

    __slots__ = ("_ended", "_limit", "_message", "_needed", "_unread")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._unread: bytearray | None = None
        self._needed = 0  # bytes that `_unread` must have before another look is worth it
        self._message: _Message | None = None
        self._ended = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in the order of the wire."""
        if self._ended:
            return []
        if self._unread is not None:
            self._unread += data
            if len(self._unread) < self._needed:
                return []
            data, self._unread = bytes(self._unread), None
        events: list[Event] = []
        try:
            rest = self._read(data, events)
        except _Broken as broken:
            events.append(broken.violation)
            self._end()
        else:
            if rest < len(data) and not self._ended:
                self._unread = bytearray(memoryview(data)[rest:])
        return events

    def _read(self, data: bytes, events: list[Event]) -> int:
        """Read the frames of `data` (section 5.2); the position at which the first unfinished one begins."""
        start, end = 0, len(data)
        while not self._ended:
            if end - start < 2:
                self._needed = 2
                break
            first, second = data[start], data[start + 1]
            if first != _WHOLE_TEXT or second < _MASKED or self._message is not None:
                self._check(first, second)
            size, body = second & 0x7F, start + 6
            if size > 125:
                body += 2 if size == 126 else 8
                if end < body - 4:
                    self._needed = body - 4 - start
                    break
                size = _extended(data[start + 2 : body - 4])
            if not first & _CONTROL:
                self._admit(size)
            stop = body + size
            if end < stop:
                self._needed = stop - start
                break
            payload = _unmasked(data[body:stop], data[body - 4 : body])
            start = stop
            if first == _WHOLE_TEXT:
                if not payload.isascii():
                    _decode(payload)
                events.append(payload)
            else:
                self._take(first, payload, events)
        return start

    def _check(self, first: int, second: int) -> None:
        """Whether a frame may begin like this, here (sections 5.1, 5.2, 5.4, 5.5)."""
        opcode = first & 0x0F
        if first & _RESERVED:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "Reserved bits must be 0: no extension was agreed on.")
        if opcode not in _OPCODES:
            raise _Broken(CloseCode.PROTOCOL_ERROR, f"Opcode {opcode} is reserved.")
        if second < _MASKED:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "A client's frames must be masked.")
        if opcode & _CONTROL:
            if first < _FIN or second & 0x7F > _MAX_CONTROL:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "A control frame is whole and has at most 125 bytes.")
        elif opcode == CONTINUATION and self._message is None:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "There is no message that this frame continues.")
        elif opcode != CONTINUATION and self._message is not None:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "A message must end before another begins.")

    def _admit(self, size: int) -> None:
        """Whether a message may have a frame of `size` bytes now."""
        message = self._message
        if size + (len(message.body) if message else 0) > self._limit:
            raise _Broken(CloseCode.TOO_BIG, f"A message has at most {self._limit} bytes.")
        if message and message.fragments == MAX_FRAGMENTS:
            raise _Broken(CloseCode.TOO_BIG, f"A message has at most {MAX_FRAGMENTS} frames.")

    def _take(self, first: int, payload: bytes, events: list[Event]) -> None:
        """Take any frame but a whole text message."""
        opcode, final = first & 0x0F, first >= _FIN
        if opcode == CLOSE:
            events.append(_close(payload))
            self._end()
        elif opcode == PING:
            events.append(Ping(payload))
        elif opcode == PONG:
            events.append(Pong(payload))
        elif opcode == BINARY and final:
            events.append(Binary(payload))
        else:
            message = self._message = self._message or _Message(opcode)
            message.extend(payload, final)
            if final:
                events.append(message.event())
                self._message = None

    def _end(self) -> None:
        self._ended, self._message = True, None


class _Message:
    """A message that comes in fragments (section 5.4)."""

    __slots__ = ("_decoder", "body", "fragments")

    def __init__(self, opcode: int) -> None:
        self.body = bytearray()
        self.fragments = 0
        self._decoder = _UTF8() if opcode == TEXT else None

    def extend(self, payload: bytes, final: bool) -> None:
        """Add a fragment. Text fails at the fragment in which it breaks, not at the end (section 8.1)."""
        self.fragments += 1
        self.body += payload
        if self._decoder is not None:
            _decode(payload, self._decoder, final)

    def event(self) -> Event:
        return Binary(bytes(self.body)) if self._decoder is None else bytes(self.body)


_UTF8: Final = codecs.getincrementaldecoder("utf-8")


def _decode(text: bytes, decoder: codecs.IncrementalDecoder | None = None, final: bool = True) -> str:
    try:
        return text.decode() if decoder is None else decoder.decode(text, final)
    except UnicodeDecodeError:
        raise _Broken(CloseCode.INVALID_TEXT, "Text must be UTF-8.") from None


def _extended(length: bytes) -> int:
    """The extended payload length; it must have been needed, and its highest bit 0 (section 5.2)."""
    size = int.from_bytes(length, "big")
    if size < (126 if len(length) == 2 else 65_536) or size >> 63:
        raise _Broken(CloseCode.PROTOCOL_ERROR, "A payload length takes the fewest bytes that can hold it.")
    return size


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    """`payload` XOR the repeated mask (section 5.3), as one operation on two long integers."""
    size = len(payload)
    key = mask * (size + 3 >> 2)
    whole = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return whole.to_bytes(len(key), "little")[:size]


def _close(payload: bytes) -> Close:
    """Read a close frame's payload: nothing, or a code and perhaps a reason (sections 5.5.1, 7.4)."""
    if not payload:
        return Close(NO_STATUS, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in (1004, 1005, 1006):
        raise _Broken(CloseCode.PROTOCOL_ERROR, "This close code is not for the wire.")
    return Close(code, _decode(payload[2:]))


_HEADER_16: Final = Layout("!BBH")
_HEADER_64: Final = Layout("!BBQ")
_SHORT_TEXT: Final = tuple(bytes((_WHOLE_TEXT, size)) for size in range(126))


def text_frame(payload: bytes) -> bytes:
    """A text message of UTF-8 bytes in one frame; a server does not mask (section 5.1)."""
    size = len(payload)
    if size < 126:
        return _SHORT_TEXT[size] + payload
    if size < 65_536:
        return _HEADER_16.pack(_WHOLE_TEXT, 126, size) + payload
    return _HEADER_64.pack(_WHOLE_TEXT, 127, size) + payload


def ping_frame(payload: bytes = b"") -> bytes:
    """`payload`: at most 125 bytes."""
    return _control_frame(PING, payload)


def pong_frame(payload: bytes = b"") -> bytes:
    """`payload`: the ping's."""
    return _control_frame(PONG, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; 1005 gives one without a code. A reason over 123 bytes is cut, between characters."""
    if code == NO_STATUS:
        return _control_frame(CLOSE, b"")
    cut = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore")
    return _control_frame(CLOSE, code.to_bytes(2, "big") + cut.encode())


def _control_frame(opcode: int, payload: bytes) -> bytes:
    if len(payload) > _MAX_CONTROL:
        raise ValueError("A control frame has at most 125 bytes.")
    return bytes((_FIN | opcode, len(payload))) + payload
