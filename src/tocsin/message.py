"""WHAT TRAVELS: a publish on its way in, a message on its way out, and their JSON.

    PublishRequest (decoded, checked) -> Publication (stamped by a publisher) -> Message (as every reader gets it)

Rules:
- the payload is carried as the bytes that were published, never re-encoded;
- a message's id is a UUIDv7 whose millisecond is its timestamp, so one id has one place in time;
- a number means the FIFO path, and `fifo` to WebSocket always has one (docs/wire.md, Numbers).
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from tocsin import strict_json
from tocsin.errors import Refusal, invalid

MessageType = Literal["fifo", "standard"]

WEBSOCKET: Final = "WebSocket"
#: Bytes of a WebSocket message, a REST body, a batch entry, and of a message as it is delivered.
MAX_MESSAGE_BYTES: Final = 131_072
#: The largest number that may be asked for; it has 18 digits.
MAX_SEQUENCE: Final = 10**18 - 1

IDENTIFIER_CHARACTERS: Final = "A-Za-z0-9._:@|+=~-"
is_chat_id = re.compile(f"[{IDENTIFIER_CHARACTERS}]{{1,128}}").fullmatch
is_user_id = re.compile(f"[{IDENTIFIER_CHARACTERS}]{{1,120}}").fullmatch
is_printable_id = re.compile(r"[\x20-\x7e]{1,128}").fullmatch


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """The publish object of docs/wire.md, the same through both doors and in a batch."""

    target_channel: str = WEBSOCKET
    message_type: MessageType = "standard"
    payload: msgspec.Raw
    message_deduplication_id: str | None = None


class Payload(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """What Tocsin reads of a payload; the rest of it belongs to the application."""

    chat_id: str
    event_type: str
    content: msgspec.Raw
    request_sequence: bool = False


class Publication(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An accepted publish, stamped: `timestamp` is in milliseconds since the epoch and the id's own."""

    message_id: str
    timestamp: int
    sender_id: str
    chat_id: str
    target_channel: str
    message_type: MessageType
    payload: bytes
    deduplication_id: str | None = None
    numbered: bool = False

    @property
    def ordered(self) -> bool:
        return self.numbered or self.message_type == "fifo"

    def render(self, sequence_number: int | None) -> bytes:
        """The message as history gives it: one JSON object, ready to be sent."""
        return (
            b'{"messageId":"%b","messageType":"%b","targetChannel":"%b","timestamp":"%b","senderId":"%b",%b%b"payload":%b}'
            % (
                self.message_id.encode(),
                self.message_type.encode(),
                self.target_channel.encode(),
                rfc3339(self.timestamp),
                self.sender_id.encode(),
                b"" if sequence_number is None else b'"sequenceNumber":%d,' % sequence_number,
                b""
                if self.deduplication_id is None
                else b'"messageDeduplicationId":%b,' % msgspec.json.encode(self.deduplication_id),
                self.payload,
            )
        )

    def fingerprint(self) -> bytes:
        """What must be equal for a repeated id to be the same publish: 16 bytes."""
        digest = blake2b(self.payload, digest_size=16)
        digest.update(b"\0%b\0%b" % (self.target_channel.encode(), self.message_type.encode()))
        return digest.digest()


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A committed message: `body` is its JSON object, complete and ready to be sent.

    `position` says where the engine's log holds it (0: nowhere); components carry it and never read it.
    """

    message_id: str
    chat_id: str
    target_channel: str
    timestamp: int
    sequence_number: int | None
    ordered: bool
    body: bytes
    position: int = 0

    def frame(self) -> bytes:
        """The message as a live connection gets it."""
        return b'{"type":"message",' + self.body[1:]


class _StoredPayload(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    chat_id: str


class _StoredMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    message_id: str
    message_type: MessageType
    target_channel: str
    timestamp: str
    sequence_number: int | None = None
    payload: _StoredPayload


_stored_decoder = msgspec.json.Decoder(_StoredMessage)


def read_back(body: bytes, position: int = 0) -> Message:
    """The message whose `render` made `body`."""
    stored = _stored_decoder.decode(body)
    return Message(
        message_id=stored.message_id,
        chat_id=stored.payload.chat_id,
        target_channel=stored.target_channel,
        timestamp=timestamp_of(stored.message_id),
        sequence_number=stored.sequence_number,
        ordered=stored.sequence_number is not None or stored.message_type == "fifo",
        body=body,
        position=position,
    )


def erase(body: bytes) -> bytes:
    """The same message without what was published: its row and its number stay."""
    message = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    chat_id = read_back(body).chat_id
    message["payload"] = msgspec.Raw(msgspec.json.encode({"chatId": chat_id, "eventType": "erased", "content": None}))
    return msgspec.json.encode(message)


_payload_decoder = msgspec.json.Decoder(Payload)
_readable_decoder = msgspec.json.Decoder(_StoredPayload)
#: The envelope around a payload without any of the caller's text, for the largest number there can be.
_ENVELOPE_BYTES: Final = (
    len(
        b'{"type":"message","messageId":"","messageType":"","targetChannel":"","timestamp":"2026-01-01T00:00:00.000Z",'
        b'"senderId":"","sequenceNumber":9223372036854775807,"payload":}'
    )
    + 36
)


def check_publish(request: PublishRequest, sender_id: str, largest: int = MAX_MESSAGE_BYTES) -> Payload:
    """The rules that a type cannot say; the refusal names the field. `largest`: bytes of the message as delivered."""
    raw = request.payload
    try:
        payload = _payload_decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise strict_json.misshapen(str(error), within="payload") from None
    if not is_chat_id(payload.chat_id):
        raise invalid("payload.chatId", f"A chatId is 1 to 128 of the characters {IDENTIFIER_CHARACTERS}")
    if not 1 <= len(payload.event_type) <= 128:
        raise invalid("payload.eventType", "An eventType is 1 to 128 characters long.")
    channel = request.target_channel
    if channel != WEBSOCKET:
        if not is_chat_id(channel):
            raise invalid("targetChannel", f"A targetChannel is 1 to 128 of the characters {IDENTIFIER_CHARACTERS}")
        if payload.request_sequence:
            raise invalid("payload.requestSequence", "Only messages to the channel WebSocket are numbered.")
    deduplication_id = request.message_deduplication_id
    if deduplication_id is not None and not is_printable_id(deduplication_id):
        raise invalid("messageDeduplicationId", "An id is 1 to 128 printable ASCII characters.")
    size = _ENVELOPE_BYTES + len(bytes(raw)) + len(channel) + len(request.message_type) + len(sender_id)
    if deduplication_id is not None:
        size += len(msgspec.json.encode(deduplication_id)) + len(',"messageDeduplicationId":')
    if size > largest:
        raise Refusal("message_too_large", f"The message as it is delivered has {size} bytes; {largest} are allowed.")
    return payload


def readable_chat(payload: bytes | msgspec.Raw) -> str | None:
    """The chat of a payload, whatever else may be wrong with it; None if no chat can be read."""
    try:
        chat_id = _readable_decoder.decode(payload).chat_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return chat_id if is_chat_id(chat_id) else None


def publication(
    request: PublishRequest, payload: Payload, *, sender_id: str, message_id: str, timestamp: int
) -> Publication:
    return Publication(
        message_id=message_id,
        timestamp=timestamp,
        sender_id=sender_id,
        chat_id=payload.chat_id,
        target_channel=request.target_channel,
        message_type=request.message_type,
        payload=bytes(request.payload),
        deduplication_id=request.message_deduplication_id,
        numbered=request.target_channel == WEBSOCKET and (request.message_type == "fifo" or payload.request_sequence),
    )


# -- time and ids ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@lru_cache(maxsize=4096)
def rfc3339(timestamp: int) -> bytes:
    """Milliseconds since the epoch as RFC 3339: UTC, milliseconds, `Z`."""
    seconds, milliseconds = divmod(timestamp, 1000)
    return b"%b.%03dZ" % (_second(seconds), milliseconds)


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,18}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch


def parse_rfc3339(text: str) -> int:
    """Milliseconds since the epoch of a time with any offset and precision. ValueError: it is not one."""
    match = _RFC3339(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    date, time, fraction, offset = match.groups()
    moment = datetime.fromisoformat(f"{date}T{time}{'+00:00' if offset in 'zZ' else offset}")
    return int(moment.timestamp()) * 1000 + int((fraction or "0")[:3].ljust(3, "0"))


class MessageIds:
    """Draws UUIDv7s (RFC 9562) that ascend, even when the clock does not.

    `rand_a` counts within the millisecond, so ids of one process are ordered; `rand_b` is random.
    """

    def __init__(self, random_bits: Callable[[int], int], *, after: int = 0) -> None:
        """`after`: the timestamp of the last id that an earlier process drew, in milliseconds."""
        self._random_bits = random_bits
        self._millisecond = after
        self._count = 0xFFF
        self._prefix = ""

    def draw(self, now: int) -> tuple[str, int]:
        """The next id and its timestamp: `now` in milliseconds, or the last one where the clock went back."""
        if now > self._millisecond:
            self._begin(now)
        elif self._count < 0xFFF:
            self._count += 1
        else:
            self._begin(self._millisecond + 1)
        bits = self._random_bits(62)
        variant, rest = 0x8000 | bits >> 48, bits & 0xFFFFFFFFFFFF
        return f"{self._prefix}{self._count:03x}-{variant:04x}-{rest:012x}", self._millisecond

    def _begin(self, millisecond: int) -> None:
        self._millisecond, self._count = millisecond, 0
        digits = f"{millisecond:012x}"
        self._prefix = f"{digits[:8]}-{digits[8:]}-7"


def timestamp_of(message_id: str) -> int:
    """Milliseconds since the epoch, from a UUIDv7."""
    return int(message_id[:8] + message_id[9:13], 16)
