"""A message on the bus: the text that travels through SNS and SQS, and back.

    Publication -> write -> SNS -> SQS -> read -> Carried (a Message without its number, and which replay brought it)

Rules:
- the text says its version, and the last two are read: while an update is rolled out, queues hold what the older
  functions have sent. What is not read fails like any message, and stands in its dead-letter queue as it came;
- id, stamp and group stand in the text: a standard queue behind a FIFO topic loses what SNS knew of them;
- the message within is the bytes that history gives, without the number, which is drawn behind the bus.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Final

import msgspec

from tocsin.message import WEBSOCKET, Message, MessageType, Publication, timestamp_of

#: The version that is written.
VERSION: Final = 1

#: SQS takes no other characters out of what a strict JSON text can hold.
_OUTSIDE = re.compile("[\ufffe\uffff]").search


class UnknownFormat(ValueError):
    """A text on the bus that this version cannot read."""


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """`replay` names the replay that put it into its queue, None: it came from its topic."""

    message: Message
    replay: str | None = None


class _Version(msgspec.Struct, frozen=True):
    v: int


class _Text1(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    v: int
    id: str
    at: int
    group: str
    channel: str
    ordered: bool
    replay: str | None = None
    message: msgspec.Raw


def _read_1(text: bytes) -> Carried:
    one = msgspec.json.decode(text, type=_Text1)
    message = Message(
        message_id=one.id,
        chat_id=one.group,
        target_channel=one.channel,
        timestamp=one.at,
        sequence_number=None,
        ordered=one.ordered,
        body=bytes(one.message),
    )
    return Carried(message=message, replay=one.replay)


#: VERSION and the one before it. What is older than that, no queue holds any more.
READERS: Final[dict[int, Callable[[bytes], Carried]]] = {1: _read_1}


def write(message: Message, *, replay: str | None = None) -> str:
    text = _Text1(
        v=VERSION,
        id=message.message_id,
        at=message.timestamp,
        group=message.chat_id,
        channel=message.target_channel,
        ordered=message.ordered,
        replay=replay,
        message=msgspec.Raw(message.body),
    )
    return pack(msgspec.json.encode(text))


def read(text: str) -> Carried:
    """Raises UnknownFormat."""
    try:
        data = unpack(text)
        version = msgspec.json.decode(data, type=_Version).v
        if version in READERS:
            return READERS[version](data)
    except (msgspec.DecodeError, ValueError) as error:
        raise UnknownFormat(f"it is not a message of ours: {error}") from None
    raise UnknownFormat(f"its format is version {version}; {sorted(READERS)} are read here")


def pack(data: bytes) -> str:
    """JSON as SQS takes it: as it stands, or in base64 (which never begins with a brace)."""
    text = data.decode()
    return b64encode(data).decode() if _OUTSIDE(text) else text


def unpack(text: str) -> bytes:
    return text.encode() if text.startswith("{") else b64decode(text, validate=True)


# -- the message and its number ----------------------------------------------------------------------------------------


def message_of(publication: Publication) -> Message:
    """Not numbered yet."""
    assert publication.timestamp == timestamp_of(publication.message_id)
    return Message(
        message_id=publication.message_id,
        chat_id=publication.chat_id,
        target_channel=publication.target_channel,
        timestamp=publication.timestamp,
        sequence_number=None,
        ordered=publication.ordered,
        body=publication.render(None),
    )


class _Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    message_type: MessageType
    sender_id: str
    message_deduplication_id: str | None = None
    payload: msgspec.Raw


_body_decoder = msgspec.json.Decoder(_Body)


def publication_of(message: Message) -> Publication:
    """What `message_of` was made of."""
    body = _body_decoder.decode(message.body)
    return Publication(
        message_id=message.message_id,
        timestamp=message.timestamp,
        sender_id=body.sender_id,
        chat_id=message.chat_id,
        target_channel=message.target_channel,
        message_type=body.message_type,
        payload=bytes(body.payload),
        deduplication_id=body.message_deduplication_id,
        numbered=is_numbered(message),
    )


def is_numbered(message: Message) -> bool:
    """Whether it has a number, or will have one: what is ordered on its way to a WebSocket."""
    return message.ordered and message.target_channel == WEBSOCKET


def with_number(message: Message, number: int, head: int) -> Message:
    """`position` becomes the chat's head as it was then: a number below it was drawn in an earlier try."""
    return msgspec.structs.replace(
        message, sequence_number=number, position=head, body=publication_of(message).render(number)
    )
