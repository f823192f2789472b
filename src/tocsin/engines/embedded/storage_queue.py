"""MessageStorageQueue over the log: what was accepted goes to message-storage in bulk, chat by chat.

    GroupCommit.committed -> Chat.unmoved -> slices of whole chats -> message-storage -> Messages.store -> trim

Rules:
- a slice takes a few milliseconds, so that no commit waits long for it; it holds few chats and much of each, because
  a page for each chat and message is what would make storing dear; between two slices storage rests, so that it never
  takes the core for long;
- the cursor passes, and the log is trimmed, when all slices up to it are moved;
- a message that can't be stored is tried three times and stays readable as a dead letter.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, cast, overload

import apsw
import structlog

from tocsin.bus import Consumer
from tocsin.clock import Clock
from tocsin.engines.embedded.chats import Chat, Chats
from tocsin.engines.embedded.data_folder import DataFolder
from tocsin.engines.embedded.group_commit import GroupCommit
from tocsin.engines.embedded.log_queue import LogQueue
from tocsin.engines.embedded.sql import QUERY
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.message import Message, read_back
from tocsin.topology import MESSAGE_STORAGE_QUEUE

log = structlog.get_logger(__name__)

MOVE_SECONDS: Final = 2.0
#: So many unmoved messages are moved at once, without waiting for the seconds to end.
MOVE_AT: Final = 100_000
SLICE: Final = 400
TRIM_SLICE: Final = 1_000
#: After a slice storage rests for so many times what it took, unless it has fallen behind.
REST: Final = 2.0
BEHIND_AT: Final = 2 * MOVE_AT
RETRY_SECONDS: Final = 1.0


class LogSlice(Sequence[Message]):
    """Messages of the log by their positions; only who looks inside reads them."""

    def __init__(self, folder: DataFolder, positions: Sequence[int], chats: Sequence[tuple[Chat, int]]) -> None:
        self._folder = folder
        self._messages: Sequence[Message] | None = None
        self.positions: Final = positions
        #: Each chat, and how many of its unmoved messages are in the slice, from the first on.
        self.chats: Final = chats

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._read())

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        return self._read()[index]

    def _read(self) -> Sequence[Message]:
        if self._messages is None:
            connection = apsw.Connection(str(self._folder.database), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                rows = cast(
                    "list[tuple[int, bytes]]",
                    connection.execute(QUERY["log_rows"], (str(list(self.positions)),)).fetchall(),
                )
            finally:
                connection.close()
            self._messages = [read_back(body, position) for position, body in rows]
        return self._messages


class StorageQueue:
    def __init__(
        self,
        *,
        folder: DataFolder,
        chats: Chats,
        commits: GroupCommit,
        clock: Clock,
        failpoints: Failpoints,
        retries: LogQueue,
        cursor: int,
        trimmed: int,
    ) -> None:
        """`retries` takes what could not be stored, message by message."""
        self._folder = folder
        self._chats = chats
        self._commits = commits
        self._clock = clock
        self._failpoints = failpoints
        self._retries = retries
        self._consumer: Consumer | None = None
        self._wake = asyncio.Event()
        self._seen = cursor
        self._trimmed = trimmed
        self._moving: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._is_draining = False
        self._dirty: dict[int, Chat] = {}
        self.cursor = cursor
        self.others: Sequence[LogQueue] = ()

    def consume(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._moving = asyncio.create_task(self._work(), name="message-storage-queue")
        self._moving.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._commits.fatal.done():
            self._commits.fatal.set_exception(error)

    def passed(self, position: int, chats: Sequence[Chat]) -> None:
        """The log up to here waits in its chats."""
        self._seen = position
        for chat in chats:
            self._dirty[chat.key] = chat
        if self._commits.unmoved >= MOVE_AT:
            self._wake.set()

    @property
    def depth(self) -> int:
        return self._commits.unmoved

    @property
    def oldest(self) -> int | None:
        return min((chat.unmoved.oldest for chat in self._dirty.values() if chat.unmoved), default=None)

    async def drain(self) -> None:
        self._is_draining = True
        try:
            while self._commits.unmoved:
                self._idle.clear()
                self._wake.set()
                await self._idle.wait()
        finally:
            self._is_draining = False

    async def stop(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            timer = asyncio.ensure_future(self._clock.sleep(MOVE_SECONDS))
            wake = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait((timer, wake), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                wake.cancel()
            self._wake.clear()
            if self._dirty:
                await self._move()
            await self._trim()
            self._idle.set()

    async def _move(self) -> None:
        """All that waits now, in slices of whole chats."""
        upto = self._seen
        dirty, self._dirty = self._dirty, {}
        positions: list[int] = []
        chats: list[tuple[Chat, int]] = []
        for chat in dirty.values():
            done = 0
            waiting = chat.unmoved.positions(upto)
            while done < len(waiting):
                part = waiting[done : done + SLICE - len(positions)]
                positions += part
                done += len(part)
                chats.append((chat, len(part)))
                if len(positions) >= SLICE:
                    await self._store(LogSlice(self._folder, positions, chats))
                    positions, chats = [], []
        if positions:
            await self._store(LogSlice(self._folder, positions, chats))
        self.cursor = upto

    async def _store(self, part: LogSlice) -> None:
        assert self._consumer is not None
        while True:
            try:
                await self._failpoints.reach("storage.mid_move")
                began = self._clock.monotonic()
                await self._consumer(part)
            except Refusal as refusal:
                log.warning("a slice of the log waits for the store", code=refusal.code)
                await self._clock.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001 - whatever fails a slice, the guilty one is looked for
                log.warning("a slice of the log could not be stored", error=repr(error))
                await self._store_singly(part, error)
                return
            else:
                self._moved(part)
                await self._rest(began)
                return

    async def _rest(self, began: float) -> None:
        """Lets those go first who wait for an answer."""
        if self._commits.unmoved < BEHIND_AT and not self._is_draining:
            await self._clock.sleep(REST * (self._clock.monotonic() - began))

    async def _store_singly(self, part: LogSlice, failure: Exception) -> None:
        """Finds the guilty one: it is set apart with its count of tries, readable there, and counts as moved."""
        assert self._consumer is not None
        for message in part:
            chat = self._chats.get(message.chat_id)
            assert chat is not None
            try:
                if len(part) == 1:
                    raise failure
                await self._consumer([message])
            except Exception as error:  # noqa: BLE001 - whatever fails it is its reason
                await self._set_apart(message, chat, error)
            self._moved(LogSlice(self._folder, [message.position], [(chat, 1)]))

    async def _set_apart(self, message: Message, chat: Chat, error: Exception) -> None:
        """Its number and place are counted as if it had been moved: they are never drawn again."""
        self._chats.storage_letters.add(chat.key)
        await self._retries.set_apart(message, error)
        positions = (f"[{message.position}]",)
        while True:
            try:
                await self._commits.write(lambda connection: connection.execute(QUERY["count_moved"], positions).get)
            except Refusal as refusal:
                log.warning("a message's number could not be counted", code=refusal.code)
                await self._clock.sleep(RETRY_SECONDS)
            else:
                return

    def _moved(self, part: LogSlice) -> None:
        for chat, count in part.chats:
            chat.unmoved.drop(count)
        self._commits.moved(len(part))

    async def _trim(self) -> None:
        """Deletes from the log what every queue has passed."""
        upto = min([self.cursor, *(queue.cursor for queue in self.others)])
        while self._trimmed < upto:
            await self._failpoints.reach("storage.before_trim")
            began = self._clock.monotonic()
            position = min(upto, self._trimmed + TRIM_SLICE)
            try:
                await self._commits.write(_Trim(position))
            except Refusal as refusal:
                log.warning("the log could not be trimmed", code=refusal.code)
                return
            self._trimmed = position
            await self._rest(began)


class _Trim:
    """The log's last timestamp and position outlive it, so that ids and positions ascend after a restart."""

    def __init__(self, position: int) -> None:
        self._position = position

    def __call__(self, connection: apsw.Connection) -> None:
        last = connection.execute(QUERY["last_timestamp"]).get
        connection.execute(QUERY["set_meta"], ("last_timestamp", last))
        connection.execute(QUERY["set_cursor"], (MESSAGE_STORAGE_QUEUE.name, self._position))
        connection.execute(QUERY["trim"], (self._position,))
