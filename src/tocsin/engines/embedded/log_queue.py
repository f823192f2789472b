"""One queue over the log: hands what was committed to its consumer, tries again what fails, keeps the dead apart.

    GroupCommit.committed -> offer -> consumer            failure -> each alone -> up to three tries -> dead letter

Rules:
- a batch that fails is tried message by message, so only the guilty one is counted as tried;
- a FIFO chat whose message is being tried again waits behind it; nobody else does;
- a consumer that hangs in a batch holds up the chats of that batch only: a fresh worker takes the others;
- a chat is in one place at a time: in flight in a batch, or in a lane; what comes for it meanwhile waits behind it;
- what has failed is kept with its count of attempts outside the log, so the cursor can pass it, and kill -9 doesn't
  forget it; after an unclean start what was in flight is tried alone, each try counted before it begins.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import structlog

from tocsin.bus import Consumer
from tocsin.clock import Clock
from tocsin.engines.embedded.group_commit import GroupCommit
from tocsin.engines.embedded.tries import RETRY_SECONDS, Entry, Tries, reason_of
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.metrics import Metrics
from tocsin.topology import Queue

log = structlog.get_logger(__name__)

#: A batch that takes longer is left to itself, and a fresh worker takes the chats that it does not hold.
PATIENCE_SECONDS: Final = 0.25


class _Lane:
    """What is tried alone, in order: a FIFO chat's messages, or one message."""

    __slots__ = ("entries", "is_worked")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.is_worked = False


class LogQueue:
    def __init__(
        self,
        queue: Queue,
        *,
        commits: GroupCommit,
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
        cursor: int,
        settled: Callable[[Sequence[Message]], None],
        died: Callable[[Queue, Message], None],
    ) -> None:
        self.queue: Final = queue
        self._commits = commits
        self._clock = clock
        self._settled = settled
        self._tries = Tries(
            queue,
            commits=commits,
            clock=clock,
            metrics=metrics,
            failpoints=failpoints,
            settled=settled,
            died=died,
        )
        self._consumer: Consumer | None = None
        self._waiting: list[Message] = []
        self._wake = asyncio.Event()
        self._held: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._batch: Sequence[Message] = ()
        self._given_up: list[Sequence[Message]] = []
        self._began = 0.0
        self._worker: asyncio.Task[None] | None = None
        self._seen = cursor
        self.stored_cursor = cursor
        self._idle = asyncio.Event()
        self._idle.set()

    def consume(self, consumer: Consumer) -> None:
        self._consumer = self._tries.consumer = consumer
        self._worker = self._spawn(self._work())

    def offer(self, messages: Sequence[Message]) -> None:
        self._waiting.extend(messages)
        self._idle.clear()
        self._wake.set()

    def passed(self, position: int) -> None:
        """The log up to here has been offered, or is none of this queue's."""
        self._seen = position

    async def set_apart(self, message: Message, failure: Exception) -> None:
        """A first try has failed elsewhere: keeps the message, and tries it again alone."""
        entry = Entry(message, attempts=1)
        while not await self._tries.keep(entry, reason_of(failure), dead=False):
            await self._clock.sleep(RETRY_SECONDS[-1])
        self._hold(entry)

    def resume(self, entries: Sequence[Entry]) -> None:
        """Takes up what a crash interrupted, or what an operator replays; each is tried alone."""
        for entry in entries:
            self._hold(entry)

    # -- the state -----------------------------------------------------------------------------------------------------

    @property
    def cursor(self) -> int:
        """Everything up to this position of the log is done, or kept elsewhere."""
        first = self._seen + 1
        for batch in (self._waiting, self._batch, *self._given_up):
            if batch:
                first = min(first, batch[0].position)
        for lane in self._held.values():
            for entry in lane.entries:
                if not entry.kept and entry.message.position:
                    first = min(first, entry.message.position)
                    break
        return first - 1

    @property
    def depth(self) -> int:
        batches = sum(map(len, self._given_up)) + len(self._waiting) + len(self._batch)
        return batches + sum(len(lane.entries) for lane in self._held.values())

    @property
    def oldest(self) -> int | None:
        """The timestamp of what has waited longest."""
        stamps = [batch[0].timestamp for batch in (self._waiting, self._batch, *self._given_up) if batch]
        stamps += [lane.entries[0].message.timestamp for lane in self._held.values() if lane.entries]
        return min(stamps, default=None)

    async def drain(self) -> None:
        while self.depth:
            self._idle.clear()
            await self._idle.wait()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def watch(self) -> None:
        """Called now and then: where the worker hangs in a batch, another one takes over what that does not hold."""
        if self._batch and self._clock.monotonic() - self._began > PATIENCE_SECONDS:
            for message in self._batch:
                self._held.setdefault(self._lane(message), _Lane())
            self._given_up.append(self._batch)
            self._batch = ()
            self._worker = self._spawn(self._work())

    # -- the usual way -------------------------------------------------------------------------------------------------

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a queue's worker died", queue=self.queue.name, exc_info=error)
            if not self._commits.fatal.done():
                self._commits.fatal.set_exception(error)

    async def _work(self) -> None:
        assert self._consumer is not None
        me = asyncio.current_task()
        while True:
            while not self._waiting:
                self._wake.clear()
                self._quiet()
                await self._wake.wait()
                if self._worker is not me and self._worker is not None:
                    return
            batch, self._waiting = self._waiting, []
            if self._held:
                batch = self._set_aside(batch)
                if not batch:
                    continue
            self._batch = batch
            self._began = self._clock.monotonic()
            failure = None
            try:
                await self._consumer(batch)
            except Exception as error:  # noqa: BLE001 - whatever fails a batch, its messages are tried alone
                failure = error
            was_given_up = self._worker is not me
            if was_given_up:
                self._given_up.remove(batch)
            else:
                self._batch = ()
            if failure is None:
                self._settled(batch)
            else:
                self._try_alone(batch, failure)
            if self._held:
                self._release(batch)
            if was_given_up:
                self._quiet()
                return

    def _try_alone(self, batch: Sequence[Message], failure: Exception) -> None:
        log.info("a batch failed; each of its messages is tried alone", queue=self.queue.name, error=reason_of(failure))
        for message in reversed(batch):
            lane = self._held.setdefault(self._lane(message), _Lane())
            lane.entries.appendleft(Entry(message, failure=failure if len(batch) == 1 else None))

    def _release(self, batch: Sequence[Message]) -> None:
        """The batch is over: the lanes of its chats go on."""
        for name in dict.fromkeys(map(self._lane, batch)):
            lane = self._held.get(name)
            if lane is not None and lane.entries:
                self._work_on(name, lane)
            elif lane is not None:
                del self._held[name]

    def _quiet(self) -> None:
        if not self.depth:
            self._idle.set()

    # -- the lanes: what is tried alone, and what waits behind it ------------------------------------------------------

    def _lane(self, message: Message) -> str:
        return message.chat_id if self.queue.fifo else message.message_id

    def _set_aside(self, batch: Sequence[Message]) -> list[Message]:
        """Puts what belongs to a held chat behind what is there; the rest."""
        free = []
        for message in batch:
            lane = self._held.get(self._lane(message))
            if lane is None:
                free.append(message)
            else:
                lane.entries.append(Entry(message))
        return free

    def _hold(self, entry: Entry) -> None:
        name = self._lane(entry.message)
        lane = self._held.setdefault(name, _Lane())
        lane.entries.append(entry)
        self._idle.clear()
        self._work_on(name, lane)

    def _work_on(self, name: str, lane: _Lane) -> None:
        in_flight = (message for batch in (self._batch, *self._given_up) for message in batch)
        if not lane.is_worked and not any(self._lane(message) == name for message in in_flight):
            lane.is_worked = True
            self._spawn(self._work_lane(name, lane))

    async def _work_lane(self, name: str, lane: _Lane) -> None:
        while lane.entries:
            entry = lane.entries[0]
            if entry.attempts and not entry.suspect:
                await self._clock.sleep(RETRY_SECONDS[min(entry.attempts, len(RETRY_SECONDS)) - 1])
            try:
                if await self._tries.attempt(entry):
                    lane.entries.popleft()
            except Exception as error:  # noqa: BLE001 - the entry stays, and is tried again
                log.error("a try could not be ended", queue=self.queue.name, error=repr(error))
                await self._clock.sleep(RETRY_SECONDS[-1])
        del self._held[name]
        self._quiet()
