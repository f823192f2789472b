"""Every refusal: its code, its HTTP status, its close code. One closed table.

Anything above the protocols raises `Refusal` and nothing else; only the gateways turn it into a status,
a frame or a close code. What is not in the table is a defect and answers `internal`, without a word of why.

Rule: a 4xx, 429 or 507 is definite (nothing was stored); 500 and 503 are unknown (repeat with the same id).
"""

from types import MappingProxyType
from typing import Final

#: code -> HTTP status. 408, 414 and 431 share `bad_request` and carry their own status (`Refusal.status`).
STATUS: Final = MappingProxyType(
    {
        "bad_request": 400,
        "invalid_json": 400,
        "invalid_argument": 400,
        "unknown_action": 400,
        "unsupported_data": 400,
        "invalid_cursor": 400,
        "unauthorized": 401,
        "invalid_token": 401,
        "token_expired": 401,
        "invalid_ticket": 401,
        "forbidden": 403,
        "not_found": 404,
        "method_not_allowed": 405,
        "idempotency_conflict": 409,
        "last_owner": 409,
        "after_refused": 409,
        "gone": 410,
        "message_too_large": 413,
        "unsupported_media_type": 415,
        "upgrade_required": 426,
        "rate_limited": 429,
        "internal": 500,
        "unavailable": 503,
        "insufficient_storage": 507,
    }
)


class Refusal(Exception):
    """What was asked for is not done; the caller is told why, and nobody else is.

    `field` is a path into what was sent (`payload.chatId`); `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        chat_id: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message
        self.field = field
        self.chat_id = chat_id
        self.retry_after = retry_after
        self.status: Final = STATUS[code] if status is None else status

    def __repr__(self) -> str:
        return f"Refusal({self.code!r}, {self.message!r}, field={self.field!r})"


class CloseCode:
    """RFC 6455 section 7.4.1, and Tocsin's own from the private range."""

    NORMAL: Final = 1000
    GOING_AWAY: Final = 1001
    PROTOCOL_ERROR: Final = 1002
    UNSUPPORTED_DATA: Final = 1003
    INVALID_TEXT: Final = 1007
    TOO_BIG: Final = 1009
    INTERNAL: Final = 1011
    RESTART: Final = 1012
    BAD_REQUEST: Final = 4400
    UNAUTHORIZED: Final = 4401
    FORBIDDEN: Final = 4403
    TOO_SLOW: Final = 4408
    TOO_MUCH: Final = 4429


def forbidden(chat_id: str | None = None) -> Refusal:
    """The same words whether the chat exists or not (docs/wire.md)."""
    return Refusal("forbidden", "You are not allowed to do this in this chat.", chat_id=chat_id)


def invalid(field: str, message: str) -> Refusal:
    return Refusal("invalid_argument", message, field=field)


def no_number(field: str, least: int, most: int) -> Refusal:
    """For what is no whole number, or out of bounds."""
    return invalid(field, f"{field} must be a whole number from {least} to {most}.")


def after_refused(chat_id: str) -> Refusal:
    """In a batch, what follows a refused entry of its chat must not overtake it."""
    return Refusal("after_refused", "An earlier entry for this chat was refused.", chat_id=chat_id)
