"""Messages and Numbers on the embedded store: what the log has not given to storage yet is read with the rest.

    MessageRetrieval, replay -> by_time, by_number -> one statement over message_storage ∪ log ∪ storage's dead letters

Rules:
- which messages only the log has is noted **before** the statement runs: what storage moves meanwhile stands in its
  snapshot, so nothing can be missed between the two, and what stands in both is taken once;
- who asks for the same numbers while they are being read gets the same page: after a restart all of a chat do, and what
  stands under a number never changes;
- a page is read in pieces, and ends where it has enough (gathered_page.py);
- what is past its time is never returned, whether it was deleted or not; `oldest` never falls;
- deletion goes in slices, and waits an hour where the clock has jumped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final, cast

import apsw

from tocsin.clock import Clock
from tocsin.engines.embedded.chats import ORDINAL_BITS, ORDINAL_MASK, Chat, Chats
from tocsin.engines.embedded.gathered_page import PIECE, GatheredPage, in_one_snapshot
from tocsin.engines.embedded.group_commit import GroupCommit
from tocsin.engines.embedded.reads import Reads
from tocsin.engines.embedded.sql import QUERY
from tocsin.engines.embedded.storage_queue import LogSlice
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.tables import Head, Page

#: The end of time, in milliseconds.
NEVER: Final = 1 << 62
#: What a clock may be off between two passes before deletion waits.
JUMP_MILLISECONDS: Final = 60_000
JUMP_WAIT_MILLISECONDS: Final = 3_600_000
EXPIRED_CHATS: Final = 50
TOMBSTONE_MILLISECONDS: Final = 31 * 86_400_000

Row = tuple[int, int | None, bytes | None]


class SqliteMessages:
    def __init__(
        self,
        *,
        chats: Chats,
        commits: GroupCommit,
        reads: Reads,
        clock: Clock,
        failpoints: Failpoints,
        epoch: str,
        retention: int,
    ) -> None:
        """`retention` in milliseconds."""
        self._chats = chats
        self._commits = commits
        self._reads = reads
        self._clock = clock
        self._failpoints = failpoints
        self._epoch = epoch
        self._retention = retention
        #: Pages that are being read, by (chat key, first, last, limit).
        self._pages: dict[tuple[int, int, int, int], asyncio.Future[Page]] = {}
        self._last_pass: tuple[int, float] | None = None
        self._hold_until = 0.0

    # -- Numbers -------------------------------------------------------------------------------------------------------

    async def number(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The publish that accepted them has drawn the numbers, in its own commit."""
        return messages

    async def heads(self, chat_ids: Collection[str]) -> Mapping[str, Head]:
        heads = {}
        for chat_id in chat_ids:
            chat = await self.find(chat_id)
            while not self._knows_oldest(chat):
                await self._look_up_oldest(chat)
                chat = await self.find(chat_id)
            heads[chat_id] = Head(sequence=chat.sequence, oldest=chat.oldest, epoch=self._epoch)
        return heads

    async def find(self, chat_id: str) -> Chat:
        """The chat, in memory from then on as long as it is used."""
        chat = self._chats.get(chat_id)
        if chat is not None:
            return chat
        row = await self._reads.run(lambda connection: connection.execute(QUERY["find_chat"], (chat_id,)).fetchone())
        # The writer may have loaded it, and gone on, while the reader looked.
        return self._chats.get(chat_id) or self._chats.add(Chat(chat_id, *cast("tuple[int, int, int]", row or ())))

    # -- Messages ------------------------------------------------------------------------------------------------------

    async def store(self, messages: Sequence[Message]) -> None:
        if isinstance(messages, LogSlice):
            positions = str(list(messages.positions))
            await self._commits.write(lambda connection: _move(connection, positions))
        else:
            for message in messages:
                await self._failpoints.reach("storage.mid_move", [message])
                await self._commits.write(_Store(message))

    async def by_number(self, chat_id: str, first: int, last: int, limit: int) -> Page:
        chat = await self.find(chat_id)
        if not chat.ordinal:
            return Page(bodies=(), next=None)
        last = min(last, chat.sequence)
        wanted = (chat.key, first, last, limit)
        page = self._pages.get(wanted)
        if page is None:
            page = self._pages[wanted] = self._read_numbers(chat, first, last, limit)
            page.add_done_callback(lambda _: self._pages.pop(wanted, None))
        return await asyncio.shield(page)  # who goes away takes it from nobody else

    def _read_numbers(self, chat: Chat, first: int, last: int, limit: int) -> asyncio.Future[Page]:
        parameters: dict[str, apsw.SQLiteValue] = {
            "chat_key": chat.key,
            "to": last,
            "first": self._cutoff(),
        }
        query = QUERY["numbered"]
        if len(chat.unmoved) or chat.key in self._chats.storage_letters:
            query = QUERY["merged_numbered"]
            tail = []
            for position, _, sequence, _ in reversed(chat.unmoved):  # what is asked for is mostly near the head
                if sequence is not None and sequence <= last:
                    if sequence < first:
                        break
                    tail.append(position)
            parameters["tail"] = str(tail[-limit:])

        def read(connection: apsw.Connection) -> Page:
            page = GatheredPage(limit)
            parameters["from"] = first
            while True:
                parameters["limit"] = wanted = page.piece
                count, edge, joined = _one(connection, query, parameters)
                page.add(joined)
                if edge is None or count < wanted or edge >= last:
                    return Page(bodies=page.bodies, next=None)
                parameters["from"] = edge + 1
                if page.is_full:
                    return Page(bodies=page.bodies, next=str(edge + 1))

        return self._reads.run(in_one_snapshot(read) if limit > PIECE else read)

    async def by_time(
        self, chat_id: str, first: int | None, last: int | None, *, ascending: bool, after: str | None, limit: int
    ) -> Page:
        chat = await self.find(chat_id)
        if not chat.ordinal:
            return Page(bodies=(), next=None)
        low, high = chat.base, chat.base | ORDINAL_MASK
        if after is not None:
            if ascending:
                low = int(after) + 1
            else:
                high = int(after) - 1
        start = max(self._cutoff(), first or 0)
        end = NEVER if last is None else last
        parameters: dict[str, apsw.SQLiteValue] = {"first": start, "last": end}
        merged = len(chat.unmoved) > 0 or chat.key in self._chats.storage_letters
        query = QUERY[("merged_" if merged else "") + ("page_up" if ascending else "page_down")]
        if merged:
            tail = []
            for position, place, _, timestamp in chat.unmoved if ascending else reversed(chat.unmoved):
                if low <= place <= high and start <= timestamp <= end:
                    tail.append(position)
                    if len(tail) > limit:
                        break
            parameters["tail"] = str(tail)
        parameters["low"], parameters["high"] = low, high
        # Where a time is asked for, or what has expired is kept for now, the page's edges are found first: it would
        # otherwise be looked for row by row.
        seek = first is not None or last is not None or self._is_holding

        def read(connection: apsw.Connection) -> Page:
            if seek:
                parameters["low"] = _place_at(connection, low, high, start)
                if last is not None and not merged:
                    parameters["high"] = _place_at(connection, low, high, end + 1) - 1
            page = GatheredPage(limit)
            while True:
                wanted = page.piece
                parameters["limit"] = wanted + 1
                count, edge, joined = _one(connection, query, parameters)
                page.add(joined, at_most=wanted)
                if count <= wanted:
                    return Page(bodies=page.bodies, next=None)
                # One more than asked for was read: there is more, and the last place is that message's.
                assert edge is not None
                if page.is_full:
                    return Page(bodies=page.bodies, next=str(edge - 1 if ascending else edge + 1))
                parameters["low" if ascending else "high"] = edge

        return await self._reads.run(in_one_snapshot(read) if seek or limit > PIECE else read)

    async def expire(self, now: int, limit: int) -> int:
        if self._has_jumped(now):
            return 0
        cutoff = now - self._retention
        deleted, chats = 0, EXPIRED_CHATS
        while deleted < limit and chats == EXPIRED_CHATS:
            count, chats = await self._commits.write(_Expire(cutoff, limit - deleted))
            deleted += count
            await self._failpoints.reach("expire.mid")
        return deleted

    def _cutoff(self) -> int:
        return self._clock.now() - self._retention

    @property
    def _is_holding(self) -> bool:
        return self._clock.monotonic() < self._hold_until

    def _has_jumped(self, now: int) -> bool:
        """The wall's clock against the one that only goes forward: a wrong clock deletes nothing for an hour."""
        monotonic = self._clock.monotonic()
        if self._last_pass is not None:
            wall, ran = now - self._last_pass[0], (monotonic - self._last_pass[1]) * 1000
            if abs(wall - ran) > JUMP_MILLISECONDS:
                self._hold_until = monotonic + JUMP_WAIT_MILLISECONDS / 1000
        self._last_pass = (now, monotonic)
        return self._is_holding

    # -- the oldest number ---------------------------------------------------------------------------------------------

    def _knows_oldest(self, chat: Chat) -> bool:
        if chat.oldest_at is None:
            return chat.oldest > chat.sequence
        return chat.oldest_at >= self._cutoff()

    async def _look_up_oldest(self, chat: Chat) -> None:
        cutoff = self._cutoff()
        tail = next(
            ((sequence, at) for _, _, sequence, at in chat.unmoved if sequence is not None and at >= cutoff), None
        )
        head = chat.sequence  # what is numbered meanwhile is none of this look's
        letters = chat.key in self._chats.storage_letters
        found = await self._reads.run(lambda connection: _oldest(connection, chat.key, head, cutoff, letters=letters))
        oldest, oldest_at = found or tail or (head + 1, None)
        if oldest >= chat.oldest:
            chat.oldest, chat.oldest_at = oldest, oldest_at


def _one(connection: apsw.Connection, query: str, parameters: Mapping[str, apsw.SQLiteValue]) -> Row:
    return cast(Row, connection.execute(query, parameters).fetchone())


def _move(connection: apsw.Connection, positions: str) -> None:
    connection.execute(QUERY["move"], (positions,))
    connection.execute(QUERY["count_moved"], (positions,))


class _Store:
    """The job that stores one message by itself: from the log, or from where it was set apart."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def __call__(self, connection: apsw.Connection) -> None:
        if self._message.position:
            _move(connection, f"[{self._message.position}]")
        connection.execute(QUERY["store_undelivered"], (self._message.message_id,))
        connection.execute(QUERY["count_letter"], (self._message.message_id,))


def _place_at(connection: apsw.Connection, low: int, high: int, timestamp: int) -> int:
    """The first place whose message is not older than `timestamp`: by halves, since both ascend together."""
    first = cast("tuple[int, int] | None", connection.execute(QUERY["edge_up"], (low, high)).fetchone())
    if first is None or first[1] >= timestamp:
        return low
    last = cast("tuple[int, int] | None", connection.execute(QUERY["edge_down"], (low, high)).fetchone())
    assert last is not None
    if last[1] < timestamp:
        return last[0] + 1
    low, high = first[0], last[0]
    while high - low > 1:
        middle = (low + high) // 2
        found = connection.execute(QUERY["edge_up"], (middle, high)).fetchone()
        place, at = cast("tuple[int, int]", found or (high, timestamp))
        if at >= timestamp:
            high = middle
        else:
            low = place
    return high


def _oldest(connection: apsw.Connection, key: int, head: int, cutoff: int, *, letters: bool) -> tuple[int, int] | None:
    """The first number that has not expired in message_storage or among its dead letters, and its timestamp."""
    stored = _oldest_stored(connection, key, head, cutoff)
    dead = connection.execute(QUERY["oldest_letter"], (key, cutoff)).fetchone() if letters else None
    return min(filter(None, (stored, cast("tuple[int, int] | None", dead))), default=None)


def _oldest_stored(connection: apsw.Connection, key: int, head: int, cutoff: int) -> tuple[int, int] | None:
    found = cast("tuple[int, int] | None", connection.execute(QUERY["number_at"], (key, 0)).fetchone())
    if found is None or found[1] >= cutoff:
        return found
    low, high = found[0], head + 1
    best: tuple[int, int] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        found = cast("tuple[int, int] | None", connection.execute(QUERY["number_at"], (key, middle)).fetchone())
        if found is None or found[1] >= cutoff:
            high = middle
            best = found or best
        else:
            low = max(middle, found[0])
    return best


class _Expire:
    """The job that deletes a slice of what is past its time: how many messages, of how many chats."""

    def __init__(self, cutoff: int, limit: int) -> None:
        self._cutoff = cutoff
        self._limit = limit

    def __call__(self, connection: apsw.Connection) -> tuple[int, int]:
        found = connection.execute(QUERY["expired_chats"], (self._cutoff, EXPIRED_CHATS)).fetchall()
        deleted = chats = 0
        for (key,) in cast("list[tuple[int]]", found):
            low = key << ORDINAL_BITS
            high = low | ORDINAL_MASK
            connection.execute(QUERY["expire"], (low, high, self._cutoff, self._limit - deleted))
            deleted += connection.changes()
            connection.execute(QUERY["set_first_at"], (key, low, high))
            chats += 1
            if deleted >= self._limit:
                break
        connection.execute(QUERY["forget_tombstones"], (self._cutoff - TOMBSTONE_MILLISECONDS, self._limit))
        return deleted, chats
