"""Where a next page begins, given to a client and taken back: opaque, URL-safe, signed.

    a page's `next` -> seal -> `nextStartKey` ... `startKey` -> open -> `after` of the next page

Rule: a cursor is good for the question it was made for: chat and filters are signed with it, and not carried in it.
"""

import hmac
from typing import Final

import msgspec

from tocsin.errors import Refusal
from tocsin.identity import base64url, from_base64url

#: Of HMAC-SHA256, in bytes (RFC 2104 section 5 advises no less).
TAG_BYTES: Final = 16

Question = tuple[str | int | None, ...]


class Cursors:
    """`secret` is random, and outlives a restart, so that a client may go on reading after it.

    `former` are secrets that it has replaced: what they have signed is still good.
    """

    __slots__ = ("_former", "_secret")

    def __init__(self, secret: bytes, *former: bytes) -> None:
        self._secret: Final = secret
        self._former: Final = former

    def seal(self, place: str, question: Question) -> str:
        """`question` says what was asked for, beginning with a name for the kind of question. About 4 µs."""
        told = place.encode()
        return base64url(_tag(self._secret, told, question) + told).decode()

    def open(self, cursor: str, question: Question) -> str:
        """The place that was sealed for the same question, or a refusal: `invalid_cursor`."""
        try:
            sealed = from_base64url(cursor.encode("ascii"))
        except ValueError:
            raise _foreign() from None
        tag, told = sealed[:TAG_BYTES], sealed[TAG_BYTES:]
        if not any(hmac.compare_digest(tag, _tag(secret, told, question)) for secret in (self._secret, *self._former)):
            raise _foreign()
        return told.decode()


def _tag(secret: bytes, told: bytes, question: Question) -> bytes:
    # JSON has no zero byte, so nothing of the question can be taken for a part of the place.
    return hmac.digest(secret, msgspec.json.encode(question) + b"\0" + told, "sha256")[:TAG_BYTES]


def _foreign() -> Refusal:
    return Refusal("invalid_cursor", "This startKey is not one that was given for this question.", field="startKey")
