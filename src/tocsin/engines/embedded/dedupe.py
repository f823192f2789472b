"""Which publishes were seen: a table for each minute, dropped whole, and a filter in memory before it.

    GroupCommit -> Claims.find (seen?) -> the commit -> Claims.rows of what is new, in the same transaction

Rules: an id is remembered for five minutes at least, across restarts; ids beyond the bound are refused, never
forgotten; the clock going back never makes a newer table than the newest.
"""

from hashlib import blake2b
from typing import Final, NamedTuple, cast

import apsw

from tocsin.bus import Receipt
from tocsin.errors import Refusal
from tocsin.message import Publication

MINUTE: Final = 60_000
#: The minute that is being filled and five whole ones.
KEPT: Final = 6


class Claim(NamedTuple):
    key: bytes
    fingerprint: bytes
    message_id: str
    timestamp: int


class _Filter:
    """A Bloom filter of 16-byte digests: three probes, 2 MiB of bits, one false hit in a hundred at 1.9 M ids."""

    __slots__ = ("_bits",)
    MASK: Final = (1 << 24) - 1

    def __init__(self) -> None:
        self._bits = bytearray(1 << 21)

    def add(self, key: bytes) -> None:
        bits, number = self._bits, int.from_bytes(key, "little")
        for shift in (0, 24, 48):
            probe = number >> shift & self.MASK
            bits[probe >> 3] |= 1 << (probe & 7)

    def may_have(self, key: bytes) -> bool:
        bits, number = self._bits, int.from_bytes(key, "little")
        for shift in (0, 24, 48):
            probe = number >> shift & self.MASK
            if not bits[probe >> 3] >> (probe & 7) & 1:
                return False
        return True


class Claims:
    def __init__(self, connection: apsw.Connection, capacity: int = 2_000_000) -> None:
        self._capacity = capacity
        self._counts: dict[int, int] = {}
        #: None: the table is from before the start, and is always asked.
        self._filters: dict[int, _Filter | None] = {}
        self._drawn: dict[bytes, Claim] = {}
        names = connection.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'claims_[0-9]*' ORDER BY name")
        tables = cast("list[tuple[str]]", names.fetchall())
        for minute in sorted(int(name.removeprefix("claims_")) for (name,) in tables):
            self._counts[minute] = cast(int, connection.execute(f"SELECT count(*) FROM claims_{minute}").get)  # noqa: S608 - a number
            self._filters[minute] = None

    def find(self, connection: apsw.Connection, publication: Publication, now: int) -> Receipt | Refusal | None:
        """The first one's receipt, or why this one is refused; None: it is new, and is remembered when it commits."""
        identity = f"{publication.sender_id}\0{publication.chat_id}\0{publication.deduplication_id}"
        key = blake2b(identity.encode(), digest_size=16).digest()
        found = self._drawn.get(key) or self._look_up(connection, key)
        if found is not None:
            if found.fingerprint != publication.fingerprint():
                return Refusal(
                    "idempotency_conflict",
                    "This id was used for another message within the last minutes.",
                    field="messageDeduplicationId",
                    chat_id=publication.chat_id,
                )
            return Receipt(message_id=found.message_id, timestamp=found.timestamp, duplicate=True)
        first_kept = now // MINUTE - KEPT + 1
        kept = {minute: count for minute, count in self._counts.items() if minute >= first_kept}
        if sum(kept.values()) + len(self._drawn) >= self._capacity:
            oldest = min(kept, default=now // MINUTE)
            return Refusal(
                "rate_limited",
                "Too many ids are remembered; publish without one, or later.",
                retry_after=max(1.0, ((oldest + KEPT) * MINUTE - now) / 1000),
            )
        self._drawn[key] = Claim(key, publication.fingerprint(), publication.message_id, publication.timestamp)
        return None

    def _look_up(self, connection: apsw.Connection, key: bytes) -> Claim | None:
        for minute, known in reversed(self._filters.items()):
            if known is None or known.may_have(key):
                row = connection.execute(f"SELECT * FROM claims_{minute} WHERE key = ?", (key,)).fetchone()  # noqa: S608 - a number
                if row is not None:
                    return Claim(*row)
        return None

    def write(self, connection: apsw.Connection, now: int) -> None:
        """The drawn claims, inside the commit that they belong to; drops the tables that are too old."""
        if not self._drawn:
            return
        minute = max(now // MINUTE, max(self._counts, default=0))
        if minute not in self._counts:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS claims_{minute} (key BLOB PRIMARY KEY, fingerprint BLOB NOT NULL,"
                " message_id TEXT NOT NULL, timestamp INTEGER NOT NULL) WITHOUT ROWID"
            )
            for old in [old for old in self._counts if old <= minute - KEPT]:
                connection.execute(f"DROP TABLE IF EXISTS claims_{old}")
        connection.executemany(f"INSERT INTO claims_{minute} VALUES (?, ?, ?, ?)", self._drawn.values())  # noqa: S608 - a number

    def settle(self, now: int, *, committed: bool) -> None:
        """After the commit: what was drawn is remembered, or forgotten with it."""
        if not self._drawn:
            return
        if committed:
            minute = max(now // MINUTE, max(self._counts, default=0))
            if minute not in self._counts:
                self._counts[minute], self._filters[minute] = 0, _Filter()
                for old in [old for old in self._counts if old <= minute - KEPT]:
                    del self._counts[old], self._filters[old]
            self._counts[minute] += len(self._drawn)
            known = self._filters[minute]
            if known is not None:
                for key in self._drawn:
                    known.add(key)
        self._drawn.clear()
