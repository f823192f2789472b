"""Bus on the embedded log: publish is one commit, a queue is a cursor over it.

    publisher -> publish -> GroupCommit -> the three queues of topology.py -> their consumers

Rule: the answers go out before the queues are told, so that an ack comes before one's own copy.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, cast

import apsw
import msgspec
import structlog

from tocsin.bus import Consumer, DeadLetter, Depth, Receipt
from tocsin.clock import Clock
from tocsin.engines.embedded.chats import ORDINAL_BITS, ORDINAL_MASK, Chat, Chats, Row
from tocsin.engines.embedded.data_folder import DataFolder
from tocsin.engines.embedded.dedupe import Claims
from tocsin.engines.embedded.group_commit import GroupCommit
from tocsin.engines.embedded.hub import Hub
from tocsin.engines.embedded.log_queue import LogQueue
from tocsin.engines.embedded.sql import QUERY
from tocsin.engines.embedded.storage_queue import StorageQueue
from tocsin.engines.embedded.tries import Entry
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.message import Message, Publication, erase, read_back
from tocsin.metrics import Metrics
from tocsin.topology import MESSAGE_STORAGE_QUEUE, QUEUES, Queue, topic_of

log = structlog.get_logger(__name__)

WATCH_SECONDS: Final = 0.1
#: Dead letters that are replayed or purged in one turn of the writer's.
LETTERS_SLICE: Final = 500


class SqliteBus:
    def __init__(
        self,
        *,
        folder: DataFolder,
        chats: Chats,
        hub: Hub,
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
        claim_capacity: int,
    ) -> None:
        self._folder = folder
        self._chats = chats
        self._hub = hub
        self._clock = clock
        self._metrics = metrics
        cursors = dict(cast("list[tuple[str, int]]", folder.writer.execute(QUERY["cursors"]).fetchall()))
        first, last = cast("tuple[int, int]", folder.writer.execute(QUERY["log_bounds"]).fetchone())
        self.commits = GroupCommit(
            folder=folder,
            chats=chats,
            claims=Claims(folder.writer, claim_capacity),
            clock=clock,
            metrics=metrics,
            failpoints=failpoints,
            position=max([last, *cursors.values()]),
            carry=self._carry,
            committed=self._committed,
        )
        self._queues = {
            queue.name: LogQueue(
                queue,
                commits=self.commits,
                clock=clock,
                metrics=metrics,
                failpoints=failpoints,
                cursor=cursors.get(queue.name, 0),
                settled=hub.settled if queue is not MESSAGE_STORAGE_QUEUE else lambda _: None,
                died=self._died,
            )
            for queue in QUEUES
        }
        self._live = [queue for queue in self._queues.values() if queue.queue is not MESSAGE_STORAGE_QUEUE]
        self._storage = StorageQueue(
            folder=folder,
            chats=chats,
            commits=self.commits,
            clock=clock,
            failpoints=failpoints,
            retries=self._queues[MESSAGE_STORAGE_QUEUE.name],
            cursor=cursors.get(MESSAGE_STORAGE_QUEUE.name, 0),
            trimmed=first - 1 if first else cursors.get(MESSAGE_STORAGE_QUEUE.name, 0),
        )
        self._storage.others = self._live
        #: Which of the live queues take what, looked up once for each (ordered, channel).
        self._routes: dict[tuple[bool, str], list[LogQueue]] = {}
        self._recovered: list[tuple[LogQueue, list[Entry]]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._recover(failpoints)

    # -- start and end -------------------------------------------------------------------------------------------------

    def _recover(self, failpoints: Failpoints) -> None:
        """Takes up the log where the last process left it: its tail in memory, what was in flight to be tried alone."""
        connection = self._folder.writer
        by_key: dict[int, Chat] = {}
        known = cast("list[tuple[int, str, int, int]]", connection.execute(QUERY["unmoved_chats"]).fetchall())
        for key, chat_id, sequence, ordinal in known:
            by_key[key] = self._chats.add(Chat(chat_id, key, sequence, ordinal))
        failpoints.hit("start.mid_recovery")
        rows = cast(
            "list[Row]",
            connection.execute(QUERY["unmoved"], (self._storage.cursor,)).fetchall(),
        )
        for row in rows:
            _, place, number, _ = row
            chat = by_key[place >> ORDINAL_BITS]
            chat.ordinal = chat.drawn_ordinal = place & ORDINAL_MASK
            if number is not None:
                chat.sequence = chat.drawn_sequence = number
            chat.unmoved.append(*row)
        for chat in by_key.values():
            chat.oldest = 0 if chat.sequence else 1
        self.commits.unmoved = len(rows)
        letters = cast("list[tuple[int]]", connection.execute(QUERY["storage_letters"]).fetchall())
        self._chats.storage_letters.update(key for (key,) in letters)
        last = rows[-1][0] if rows else self._storage.cursor
        self._storage.passed(last, list(by_key.values()))
        entries: dict[str, list[Entry]] = {name: [] for name in self._queues}
        retried = cast("list[tuple[str, int, bytes]]", connection.execute(QUERY["retried"]).fetchall())
        for name, attempts, body in retried:
            entries[name].append(Entry(read_back(body), attempts=attempts, kept=True, suspect=True))
        start = min(queue.stored_cursor for queue in self._live)
        tail = cast("Iterator[tuple[int, bytes]]", connection.execute(QUERY["log_from"], (start,)))
        for position, body in tail:
            message = read_back(body, position)
            for queue in self._route(message):
                kept = (queue.queue.name, message.message_id)  # being tried again, or dead
                if position > queue.stored_cursor and not connection.execute(QUERY["is_undelivered"], kept).get:
                    entries[queue.queue.name].append(Entry(message, suspect=True))
        for queue in self._queues.values():
            queue.passed(max(last, queue.stored_cursor))
            self._recovered.append((queue, entries[queue.queue.name]))

    def start(self) -> None:
        """After every queue has its consumer."""
        self.commits.start()
        for queue, entries in self._recovered:
            queue.resume(entries)
        self._recovered.clear()
        self._watcher = asyncio.create_task(self._watch(), name="queue-watcher")

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        for queue in self._queues.values():
            await queue.stop()
        await self._storage.stop()
        if self.commits.is_running:
            try:
                await self.commits.write(self._carry)
            except Refusal as refusal:
                log.warning("the queues' cursors could not be written", code=refusal.code)
        await self.commits.stop()

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(WATCH_SECONDS)
            for queue in self._live:
                queue.watch()

    # -- Bus -----------------------------------------------------------------------------------------------------------

    async def publish(
        self, publications: Sequence[Publication], *, chained: bool = False
    ) -> Sequence[Receipt | Refusal]:
        return await self.commits.append(publications, chained=chained)

    def consume(self, queue: Queue, consumer: Consumer) -> None:
        self._queues[queue.name].consume(consumer)
        if queue is MESSAGE_STORAGE_QUEUE:
            self._storage.consume(consumer)

    async def dead_letters(
        self, queue: Queue | None = None, *, letter_id: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        query = QUERY["dead_letters" if letter_id is None else "dead_letter"]
        wanted = {"queue": None if queue is None else queue.name, "letter_ids": _numbers([letter_id or ""])}
        rows = await self.commits.write(
            lambda connection: connection.execute(query, {**wanted, "limit": limit}).fetchall()
        )
        return [_letter(row) for row in cast("list[LetterRow]", rows)]

    async def replay(self, letter_ids: Sequence[str] | None) -> int:
        return sum([await self._replay(part) for part in await self._slices(letter_ids)])

    async def _replay(self, letter_ids: Sequence[str]) -> int:
        numbers = (_numbers(letter_ids),)
        rows = await self.commits.write(lambda connection: connection.execute(QUERY["revive"], numbers).fetchall())
        for name, body in cast("list[tuple[str, bytes]]", rows):
            self._queues[name].resume([Entry(read_back(body), kept=True)])
        self._metrics.count("replays", len(rows))
        return len(rows)

    async def purge(self, letter_ids: Sequence[str] | None) -> int:
        """What storage failed at has no other copy: its number stays in history, without what was published."""
        return sum([await self._purge(part) for part in await self._slices(letter_ids)])

    async def _purge(self, letter_ids: Sequence[str]) -> int:
        numbers = (_numbers(letter_ids),)

        def job(connection: apsw.Connection) -> int:
            rows = connection.execute(QUERY["purge"], numbers).fetchall()
            for queue, place, sequence, timestamp, body in cast("list[PurgedRow]", rows):
                if queue == MESSAGE_STORAGE_QUEUE.name:
                    connection.execute(QUERY["store"], (place, sequence, timestamp, erase(body)))
                    low = place & ~ORDINAL_MASK
                    connection.execute(QUERY["set_first_at"], (place >> ORDINAL_BITS, low, low | ORDINAL_MASK))
            return len(rows)

        return await self.commits.write(job)

    async def _slices(self, letter_ids: Sequence[str] | None) -> list[Sequence[str]]:
        """So many at a time that no commit waits long; None: all that are dead now."""
        if letter_ids is None:
            rows = await self.commits.write(lambda connection: connection.execute(QUERY["dead_letter_ids"]).fetchall())
            letter_ids = [str(number) for (number,) in cast("list[tuple[int]]", rows)]
        return [letter_ids[first : first + LETTERS_SLICE] for first in range(0, len(letter_ids), LETTERS_SLICE)]

    async def depths(self) -> Sequence[Depth]:
        rows = await self.commits.write(lambda connection: connection.execute(QUERY["count_dead_letters"]).fetchall())
        dead = dict(cast("list[tuple[str, int]]", rows))
        now = self._clock.now()
        depths = []
        for name, queue in self._queues.items():
            stored = self._storage if queue.queue is MESSAGE_STORAGE_QUEUE else queue
            oldest = stored.oldest
            depths.append(
                Depth(
                    queue=name,
                    waiting=stored.depth if stored is queue else stored.depth + queue.depth,
                    oldest_age=0.0 if oldest is None else max(0.0, (now - oldest) / 1000),
                    dead_letters=dead.get(name, 0),
                )
            )
        return depths

    async def drain(self) -> None:
        for queue in self._live:
            await queue.drain()
        await self._storage.drain()
        await self._queues[MESSAGE_STORAGE_QUEUE.name].drain()

    # -- between the log and its queues --------------------------------------------------------------------------------

    def _committed(self, messages: Sequence[Message]) -> None:
        """Sorts one commit's messages into the live queues; storage takes them from their chats."""
        batches: dict[str, list[Message]] = {queue.queue.name: [] for queue in self._live}
        kind, takers = (False, ""), list[list[Message]]()
        chat_ids = set()
        for message in messages:
            chat_ids.add(message.chat_id)
            if kind != (message.ordered, message.target_channel):
                kind = (message.ordered, message.target_channel)
                takers = [batches[queue.queue.name] for queue in self._route(message)]
            for batch in takers:
                batch.append(message)
        position = messages[-1].position
        for queue in self._live:
            queue.passed(position)
            if batch := batches[queue.queue.name]:
                queue.offer(batch)
        self._storage.passed(position, [chat for chat_id in chat_ids if (chat := self._chats.get(chat_id)) is not None])

    def _route(self, message: Message) -> list[LogQueue]:
        key = (message.ordered, message.target_channel)
        queues = self._routes.get(key)
        if queues is None:
            topic = topic_of(ordered=message.ordered)
            queues = [queue for queue in self._live if queue.queue.takes(topic, message.target_channel)]
            if len(self._routes) < 1_000:
                self._routes[key] = queues
        return queues

    def _carry(self, connection: apsw.Connection) -> None:
        for queue in self._live:
            cursor = queue.cursor
            if cursor != queue.stored_cursor:
                connection.execute(QUERY["set_cursor"], (queue.queue.name, cursor))
                queue.stored_cursor = cursor

    def _died(self, queue: Queue, message: Message) -> None:
        if queue is not MESSAGE_STORAGE_QUEUE:
            self._hub.skip(message)


def _numbers(letter_ids: Sequence[str]) -> str:
    """As JSON for the queries; an id that is no number, or too long a one, is nobody's."""
    return str([int(each) for each in letter_ids if each.isascii() and each.isdigit() and len(each) <= 18])


PurgedRow = tuple[str, int, int | None, int, bytes]
LetterRow = tuple[int, str, str, int | None, str, int, int, int, bytes]


def _letter(row: LetterRow) -> DeadLetter:
    letter_id, queue, message_id, sequence, reason, attempts, first, last, body = row
    return DeadLetter(
        letter_id=str(letter_id),
        queue=queue,
        message_id=message_id,
        chat_id=read_back(body).chat_id,
        sequence_number=sequence,
        reason=reason,
        attempts=attempts,
        first_failed_at=first,
        last_failed_at=last,
        body=msgspec.Raw(body),
    )
