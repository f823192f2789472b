"""What the commands ask of a service, however they reach it.

commands -> Client <- RestClient (a running service: --url, or a folder's admin.sock), FolderClient (no service)
dlq -> DeadLetters <- both, and AwsDeadLetters (--aws)
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol, Self

import msgspec

from tocsin.bus import DeadLetter
from tocsin.message import rfc3339

#: Rows that are asked for at a time; a service gives up to 1,000.
LARGEST_PAGE: Final = 500


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which messages of a chat: by number (`first`, `last`, inclusive), else by time (RFC 3339, inclusive)."""

    chat_id: str
    first: int | None = None
    last: int | None = None
    since: str | None = None
    until: str | None = None
    newest_first: bool = False
    page: int = LARGEST_PAGE

    @property
    def by_number(self) -> bool:
        return self.first is not None or self.last is not None


class Grant(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    user_id: str
    chat_id: str
    role: str
    granted_by: str
    granted_at: str


class Revocation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    user_id: str
    chat_id: str
    fence_sequence: int


class Letter(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A dead letter; `body` is the message as history gives it."""

    letter_id: str
    queue: str
    message_id: str
    chat_id: str
    sequence_number: int | None = None
    reason: str
    attempts: int
    first_failed_at: str
    last_failed_at: str
    body: msgspec.Raw

    @classmethod
    def of(cls, found: DeadLetter) -> Self:
        return cls(
            letter_id=found.letter_id,
            queue=found.queue,
            message_id=found.message_id,
            chat_id=found.chat_id,
            sequence_number=found.sequence_number,
            reason=found.reason,
            attempts=found.attempts,
            first_failed_at=rfc3339(found.first_failed_at).decode(),
            last_failed_at=rfc3339(found.last_failed_at).decode(),
            body=found.body,
        )


class Client(Protocol):
    """Every method raises `Failure`: `Refused` where the service says no, `Unreachable` where it says nothing."""

    def history(self, wanted: Wanted) -> Iterator[bytes]:
        """Messages as ready JSON, page after page as they are taken."""
        ...

    def grant(self, user_id: str, chat_id: str, role: str) -> Grant: ...

    def revoke(self, user_id: str, chat_id: str) -> Revocation: ...

    def permissions(self, user_id: str | None, chat_id: str | None) -> Iterator[Grant]:
        """One of the two at least."""
        ...


class DeadLetters(Protocol):
    """For who runs the service. No letter ids: all of them; the count of those found."""

    def dead_letters(self, queue: str | None, limit: int) -> Sequence[Letter]: ...

    def dead_letter(self, letter_id: str) -> Letter: ...

    def replay(self, letter_ids: Sequence[str] | None) -> int: ...

    def purge(self, letter_ids: Sequence[str] | None) -> int: ...


class Administration(Client, DeadLetters, Protocol):
    """What only the folder's owner may do, beside the rest."""
