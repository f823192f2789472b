"""The body of POST /publish/batch -> its entries, each read by itself; and their answers -> the body that goes back.

    bytes -> split -> one entry's bytes -> strict_json -> PublishRequest
                                                       -> Refusal, and the entry's chat as far as it can be read

Rules:
- A fault of the envelope refuses the batch, a fault of an entry refuses the entry.
- What a stranger can make of 8 MiB is bounded: no more than 500 entries are ever cut out of it, and the loop is given
  back between them.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from tocsin import strict_json
from tocsin.bus import Receipt
from tocsin.errors import Refusal, invalid
from tocsin.gateways.records import MAX_BATCH, BatchResults, Fault, Published, Refused
from tocsin.message import MAX_MESSAGE_BYTES, PublishRequest, rfc3339
from tocsin.publishing import Answer

Entry = tuple[PublishRequest | Refusal, str | None]

#: Bytes that are read before the loop gets its turn: about a millisecond.
TURN_BYTES: Final = 65_536
#: What makes the place of the fault in an entry without a field.
_OF_THE_ENTRY: Final = frozenset({"invalid_json", "invalid_argument", "message_too_large"})

# An array of at most 500, so that msgspec stops there: `list[Raw]` would first make an object of each of "[0,0,0,…]".
_Entries: Final = msgspec.defstruct(
    "_Entries",
    [(f"entry{index}", msgspec.Raw, msgspec.Raw()) for index in range(MAX_BATCH)],
    array_like=True,
    forbid_unknown_fields=True,
    frozen=True,
)


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    messages: _Entries  # type: ignore[valid-type]  # a type that is made


class _ReadableChat(msgspec.Struct, frozen=True, rename="camel"):
    chat_id: str


class _Readable(msgspec.Struct, frozen=True):
    payload: _ReadableChat


_envelope: Final = msgspec.json.Decoder(_Envelope)
_request: Final = msgspec.json.Decoder(PublishRequest)
_readable: Final = msgspec.json.Decoder(_Readable)

_OPENING: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"(?:[^"\\]|\\.)*+"[ \t\r\n]*:[ \t\r\n]*\[[ \t\r\n]*')
_BETWEEN: Final = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_CLOSING: Final = re.compile(rb"[ \t\r\n]*\][ \t\r\n]*\}[ \t\r\n]*")


def split(body: bytes) -> list[bytes]:
    """The entries of `{"messages":[…]}`. Raises `invalid_json` or `invalid_argument`. About 2 ms for 8 MiB."""
    try:
        found = msgspec.structs.astuple(_envelope.decode(body).messages)
    except msgspec.ValidationError as error:
        fault = strict_json.misshapen(str(error))
        if fault.field not in (None, "messages"):
            raise fault from None
        raise invalid("messages", f"A batch is an object with messages alone, 1 to {MAX_BATCH} in an array.") from None
    except (msgspec.DecodeError, RecursionError):
        raise Refusal("invalid_json", "This is not JSON, or it is too deep.") from None
    entries = [bytes(raw) for raw in found]
    count = entries.index(b"") if not entries[-1] else MAX_BATCH
    if not count:
        raise invalid("messages", f"A batch has 1 to {MAX_BATCH} messages.")
    if not _is_all_of(body, entries[:count]):
        raise Refusal("invalid_json", "The key 'messages' stands more than once, or something follows.")
    return entries[:count]


def _is_all_of(body: bytes, entries: Sequence[bytes]) -> bool:
    """Whether there is nothing but the envelope around the entries: of keys that repeat, msgspec takes the last."""
    gap = _OPENING.match(body)
    for entry in entries:
        if gap is None or not body.startswith(entry, gap.end()):
            return False
        end = gap.end() + len(entry)
        gap = _BETWEEN.match(body, end)
    return _CLOSING.fullmatch(body, end) is not None


async def read(body: bytes) -> list[Entry]:
    """Each entry's publish object, or why there is none; and its chat, as far as that can be read."""
    entries: list[Entry] = []
    turn = 0
    for entry in split(body):
        entries.append(_read_entry(entry))
        turn += len(entry)
        if turn > TURN_BYTES:
            turn = 0
            await asyncio.sleep(0)
    return entries


def _read_entry(entry: bytes) -> Entry:
    chat_id = _chat(entry)
    if len(entry) > MAX_MESSAGE_BYTES:
        return Refusal("message_too_large", f"An entry may have {MAX_MESSAGE_BYTES} bytes."), chat_id
    try:
        return strict_json.decode(entry, _request), chat_id
    except Refusal as refusal:
        return refusal, chat_id


def _chat(entry: bytes) -> str | None:
    """Also of an entry that is, or will be, refused: what follows it in its chat must not overtake it."""
    try:
        return _readable.decode(entry).payload.chat_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def render(answers: Sequence[Answer]) -> BatchResults:
    return BatchResults(results=[msgspec.Raw(msgspec.json.encode(_result(*pair))) for pair in enumerate(answers)])


def _result(index: int, answer: Answer) -> Published | Refused:
    if isinstance(answer, Receipt):
        return published(answer)
    field: str | msgspec.UnsetType = msgspec.UNSET
    if answer.field is not None:
        field = f"messages[{index}].{answer.field}"
    elif answer.code in _OF_THE_ENTRY:
        field = f"messages[{index}]"
    return Refused(error=Fault(code=answer.code, message=answer.message, field=field))


def published(receipt: Receipt) -> Published:
    return Published(
        message_id=receipt.message_id,
        timestamp=rfc3339(receipt.timestamp).decode(),
        duplicate=receipt.duplicate,
    )
