"""What a client may say over its WebSocket: one closed set of actions, decoded from one text (docs/wire.md)."""

from typing import Final

import msgspec

from tocsin import strict_json
from tocsin.errors import Refusal, invalid, no_number
from tocsin.message import MAX_SEQUENCE, PublishRequest, is_chat_id, is_printable_id, readable_chat

MAX_SYNC: Final = 300


class SendMessage(PublishRequest, frozen=True, kw_only=True, tag_field="action", tag="sendMessage", gc=False):
    request_id: str | None = None


class _Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    request_id: str | None = None


class Subscribe(_Action, frozen=True, kw_only=True, tag_field="action", tag="subscribe"):
    chat_id: str
    last_sequence: int | None = None
    epoch: str | None = None


class Unsubscribe(_Action, frozen=True, kw_only=True, tag_field="action", tag="unsubscribe"):
    chat_id: str


class Sync(_Action, frozen=True, kw_only=True, tag_field="action", tag="sync"):
    chats: dict[str, msgspec.Raw]
    epoch: str | None = None

    def wanted(self) -> dict[str, int | Refusal | None]:
        """Each chat read by itself: its lastSequence, or why it is refused."""
        return {chat_id: _wanted(chat_id, last_sequence) for chat_id, last_sequence in self.chats.items()}


class RefreshToken(_Action, frozen=True, kw_only=True, tag_field="action", tag="refreshToken"):
    token: str

    def __repr__(self) -> str:
        return "RefreshToken()"


class Ping(_Action, frozen=True, kw_only=True, tag_field="action", tag="ping"):
    pass


Action = SendMessage | Subscribe | Unsubscribe | Sync | RefreshToken | Ping
NAMES: Final = ("sendMessage", "subscribe", "unsubscribe", "sync", "refreshToken", "ping")

_decoder: Final[msgspec.json.Decoder[Action]] = msgspec.json.Decoder(Action)
_sequence: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)


class _Readable(msgspec.Struct):
    """What an error repeats, as far as it can be read."""

    action: msgspec.Raw = msgspec.Raw()
    requestId: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the wire's name
    chatId: msgspec.Raw = msgspec.Raw()  # noqa: N815
    payload: msgspec.Raw = msgspec.Raw()


_readable: Final = msgspec.json.Decoder(_Readable)


def decode(text: bytes) -> Action:
    """Raises `Refusal`: `invalid_json`, `invalid_argument` with its field, `unknown_action`."""
    try:
        action = strict_json.decode(text, _decoder)
    except Refusal as refusal:
        if refusal.field == "action":
            raise Refusal("unknown_action", f"An action is one of {', '.join(NAMES)}.", field="action") from None
        raise
    if type(action) is not SendMessage:
        _check(action)
    if action.request_id is not None and not is_printable_id(action.request_id):
        raise invalid("requestId", "A requestId is 1 to 128 printable ASCII characters.")
    return action


def _check(action: Action) -> None:
    if isinstance(action, Subscribe | Unsubscribe) and not is_chat_id(action.chat_id):
        raise _no_chat("chatId")
    if isinstance(action, Subscribe):
        if not _may_be_last(action.last_sequence):
            raise no_number("lastSequence", 0, MAX_SEQUENCE)
    elif isinstance(action, Sync) and not 1 <= len(action.chats) <= MAX_SYNC:
        raise invalid("chats", f"From 1 to {MAX_SYNC} chats are taken at once.")


def _wanted(chat_id: str, raw: msgspec.Raw) -> int | Refusal | None:
    field = f"chats.{strict_json.shown(chat_id)}"
    if not is_chat_id(chat_id):
        return _no_chat(field)
    try:
        last_sequence = _sequence.decode(raw)
    except msgspec.ValidationError:
        last_sequence = -1
    if _may_be_last(last_sequence):
        return last_sequence
    refusal = no_number(field, 0, MAX_SEQUENCE)
    refusal.chat_id = chat_id
    return refusal


def _may_be_last(sequence: int | None) -> bool:
    return sequence is None or 0 <= sequence <= MAX_SEQUENCE


def _no_chat(field: str) -> Refusal:
    return invalid(field, "A chatId is 1 to 128 of the characters A-Z a-z 0-9 . _ : @ | + = ~ -")


def readable_ids(text: bytes) -> tuple[str | None, str | None]:
    """The requestId and the chatId of a text that was refused, where they can be read."""
    try:
        found = _readable.decode(text)
        request_id, chat_id = _text(found.requestId), _text(found.chatId)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    return (
        request_id if request_id is not None and is_printable_id(request_id) else None,
        chat_id if chat_id is not None and is_chat_id(chat_id) else readable_chat(found.payload),
    )


def _text(raw: msgspec.Raw) -> str | None:
    if not bytes(raw):
        return None
    value = msgspec.json.decode(raw)
    return value if isinstance(value, str) else None
