"""A page of history that is read in pieces, and ends where it has enough bytes.

    SqliteMessages -> a statement for each piece -> GatheredPage -> Page

Rule: nobody pays for a thousand of the longest messages at a time: not the reader, not who waits for it, not memory.
"""

from collections.abc import Callable, Sequence
from typing import Final

import apsw

from tocsin.tables import Page

#: Rows of one piece: 6 MiB, were they all of the longest. The default page is one.
PIECE: Final = 50
PAGE_BYTES: Final = 4 * 1024 * 1024


class GatheredPage:
    __slots__ = ("_limit", "_size", "bodies")

    def __init__(self, limit: int) -> None:
        self.bodies: list[bytes] = []
        self._limit = limit
        self._size = 0

    @property
    def piece(self) -> int:
        """How many are to be read next."""
        return min(PIECE, self._limit - len(self.bodies))

    @property
    def is_full(self) -> bool:
        return len(self.bodies) == self._limit or self._size >= PAGE_BYTES

    def add(self, joined: bytes | None, *, at_most: int = PIECE) -> None:
        self.bodies += _split(joined)[:at_most]
        self._size += len(joined or b"")


def in_one_snapshot(read: Callable[[apsw.Connection], Page]) -> Callable[[apsw.Connection], Page]:
    def within(connection: apsw.Connection) -> Page:
        connection.execute("BEGIN")
        try:
            return read(connection)
        finally:
            connection.execute("COMMIT")

    return within


def _split(joined: bytes | None) -> Sequence[bytes]:
    return joined.split(b"\x1e") if joined else ()
