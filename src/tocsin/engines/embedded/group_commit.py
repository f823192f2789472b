"""The one writer: what arrives while one transaction is being synced goes into the next one.

    Bus.publish -> append ─┐
    every other write ─────┴> one transaction: log rows, numbers, claims, jobs -> sync -> answers -> the queues

Rules:
- one transaction is in flight at a time, so what is drawn for it is drawn from what is committed;
- between two the loop looks at its sockets: a commit costs half a millisecond of the core, whatever is in it;
- numbers and heads move only when the commit has come back;
- rows of the log are inserted on the loop's thread (each row costs a turn of the interpreter's lock, and nobody
  else wants it there); jobs and the sync run in a thread of their own, where the lock is free;
- a full disk is a definite refusal and gives up the spare file, and counts as full until that stands again: without it
  there is nothing to give up the next time. So a start that can't write it counts as full, too;
- a failed sync is unknown: the store is opened anew before anything else is answered.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar, cast

import apsw
import structlog

from tocsin.clock import Clock
from tocsin.engines.embedded.chats import Chats
from tocsin.engines.embedded.checkpoints import Checkpoints
from tocsin.engines.embedded.data_folder import DataFolder
from tocsin.engines.embedded.dedupe import Claims
from tocsin.engines.embedded.draft import Answer, Draft
from tocsin.engines.embedded.sql import QUERY
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.message import Message, Publication
from tocsin.metrics import Metrics

T = TypeVar("T")
Job = Callable[[apsw.Connection], T]

log = structlog.get_logger(__name__)

#: Messages of one transaction; more wait for the next.
MAX_BATCH: Final = 4_000
#: Messages that storage has not moved yet; beyond it publishers wait for storage (and a start stays quick).
MAX_UNMOVED: Final = 500_000
#: How often a full disk is tried again.
FULL_RETRY_SECONDS: Final = 1.0
#: Turns of the loop between two transactions. From a socket to `append` it takes three: who was just answered can be in
#: the next one. A turn of an idle loop takes microseconds; of a busy one long enough that far fewer commits are needed.
GATHERING_TURNS: Final = 3


class _Append:
    __slots__ = ("answers", "arrived", "chained", "publications")

    def __init__(
        self,
        publications: Sequence[Publication],
        answers: asyncio.Future[list[Answer]],
        arrived: float,
        *,
        chained: bool,
    ) -> None:
        self.publications = publications
        self.chained = chained
        self.answers = answers
        self.arrived = arrived


class _Task(Generic[T]):
    __slots__ = ("done", "error", "job", "result")

    def __init__(self, job: Job[T], done: asyncio.Future[T]) -> None:
        self.job = job
        self.done = done
        self.result: T | None = None
        self.error: BaseException | None = None


class GroupCommit:
    def __init__(
        self,
        *,
        folder: DataFolder,
        chats: Chats,
        claims: Claims,
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
        position: int,
        carry: Callable[[apsw.Connection], None],
        committed: Callable[[Sequence[Message]], None],
    ) -> None:
        """`carry` adds to each transaction what may wait for one (the queues' cursors); `committed` takes what one
        brought, after its publishers have their answers."""
        self._folder = folder
        self._chats = chats
        self._claims = claims
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints
        self._position = position
        self._carry = carry
        self._committed = committed
        self._last_key = cast(int, folder.writer.execute(QUERY["last_chat_key"]).get)
        self._appends: list[_Append] = []
        self._tasks: list[_Task[object]] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "tocsin-writer")
        self._checkpoints = Checkpoints(folder, self._thread)
        self._full_until: float | None = None
        self._stopping = False
        self.unmoved = 0
        #: Done, with its reason, when the store can't go on.
        self.fatal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        if not self._folder.had_room:
            self._count_as_full()
        self._runner = asyncio.create_task(self._run(), name="group-commit")
        self._runner.add_done_callback(self._died)

    def _died(self, runner: "asyncio.Task[None]") -> None:
        """Nobody waits for a writer that is no more."""
        if not runner.cancelled() and (error := runner.exception()) is not None and not self.fatal.done():
            self.fatal.set_exception(error)
        appends, self._appends = self._appends, []
        tasks, self._tasks = self._tasks, []
        _refuse(appends, tasks, _unconfirmed())

    async def stop(self) -> None:
        """Commits what is waiting, then ends."""
        self._stopping = True
        self._wake.set()
        if self._runner is not None:
            await asyncio.wait([self._runner])
        await self._checkpoints.stop()
        self._thread.shutdown()

    @property
    def is_running(self) -> bool:
        return self._runner is not None and not self._runner.done()

    def append(self, publications: Sequence[Publication], *, chained: bool = False) -> "asyncio.Future[list[Answer]]":
        """Takes its place in the order at once; the future's answers come when it is durable."""
        answers: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        append = _Append(publications, answers, self._clock.monotonic(), chained=chained)
        if self._runner is not None and self._runner.done():
            _refuse([append], [], _unconfirmed())
        self._appends.append(append)
        self._wake.set()
        return answers

    def write(self, job: Job[T]) -> "asyncio.Future[T]":
        """Runs `job` inside the next transaction; its result comes when that is durable."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = cast(_Task[object], _Task(job, done))
        if self._runner is not None and self._runner.done():
            _refuse([], [task], _unconfirmed())
        self._tasks.append(task)
        self._wake.set()
        return done

    def moved(self, count: int) -> None:
        """Storage has moved so many messages out of the log."""
        self.unmoved -= count
        self._wake.set()

    # -- the cycle -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._stopping and not self._appends and not self._tasks:
                return
            while self._tasks or (self._appends and (not self._is_crowded or self._stopping)):
                if self._full_until is not None:
                    self._try_to_heal()
                await self._cycle()
                for _ in range(GATHERING_TURNS):
                    await asyncio.sleep(0)
            if self._stopping:
                return

    @property
    def _is_crowded(self) -> bool:
        return self.unmoved > MAX_UNMOVED

    async def _cycle(self) -> None:
        appends = [] if self._is_crowded and not self._stopping else self._take()
        tasks, self._tasks = self._tasks, []
        if self._full_until is not None:
            _refuse(appends, [], _full())
            appends = []
            if not tasks:
                return
        connection = self._folder.writer
        now = self._clock.now()
        began = self._clock.monotonic()
        draft = Draft(
            connection,
            chats=self._chats,
            claims=self._claims,
            position=self._position,
            last_key=self._last_key,
            now=now,
        )
        try:
            connection.execute("BEGIN IMMEDIATE")
            for append in appends:
                draft.draw(append.publications, chained=append.chained)
            draft.write()
            self._carry(connection)
            self._failpoints.hit("publish.accepted", draft.messages)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sync, connection, tasks)
        except Exception as error:  # noqa: BLE001 - whatever it is, all who wait are told
            _roll_back(connection)
            _refuse(appends, tasks, _full() if isinstance(error, apsw.FullError) else _unconfirmed())
            self._prepare_next(error)
            if not draft.rows or self._last_position() < draft.position:
                draft.undo()
                return
            # The commit stands all the same: its publishers have heard "unknown", its messages go their way.
        self._settle(appends, tasks, draft, began)
        await self._checkpoints.tend()

    def _take(self) -> list[_Append]:
        count = 0
        for index, append in enumerate(self._appends):
            count += len(append.publications)
            if count > MAX_BATCH and index:
                taken, self._appends = self._appends[:index], self._appends[index:]
                return taken
        taken, self._appends = self._appends, []
        return taken

    def _sync(self, connection: apsw.Connection, tasks: list[_Task[object]]) -> None:
        """In the writer's thread: the jobs, each in a savepoint of its own, and the commit with its sync."""
        for task in tasks:
            try:
                with connection:
                    task.result = task.job(connection)
            except (apsw.FullError, apsw.IOError, apsw.CorruptError):
                raise
            except Exception as error:  # noqa: BLE001 - the job's own caller gets it
                task.error = error
        self._failpoints.hit("commit.before_sync")
        connection.execute("COMMIT")
        self._failpoints.hit("commit.after_sync")

    def _settle(self, appends: list[_Append], tasks: list[_Task[object]], draft: Draft, began: float) -> None:
        draft.settle()
        self._position, self._last_key = draft.position, draft.last_key
        self.unmoved += len(draft.rows)
        ended = self._clock.monotonic()
        for append, answers in zip(appends, draft.answers, strict=True):
            if not append.answers.done():
                append.answers.set_result(answers)
            self._metrics.observe("accept_to_commit", ended - append.arrived)
        for task in tasks:
            if task.done.done():
                continue
            if task.error is None:
                task.done.set_result(task.result)
            else:
                task.done.set_exception(task.error)
        if draft.rows:
            self._metrics.observe("commit_batch_size", len(draft.rows))
            self._metrics.observe("commit_seconds", ended - began)
            self._committed(draft.messages)

    def _last_position(self) -> int:
        """The log's, as the store has it."""
        _, last = cast("tuple[int, int]", self._folder.writer.execute(QUERY["log_bounds"]).fetchone())
        return last

    def _prepare_next(self, error: Exception) -> None:
        """Gives up the spare file where the disk is full; after any other failure the store is opened anew."""
        if not isinstance(error, apsw.FullError):
            log.error("a commit failed; the store is opened anew", exc_info=error)
            self._folder.reopen()
            return
        self._count_as_full()

    def _count_as_full(self) -> None:
        if self._full_until is None:
            log.error("the disk is full; publishes are refused until there is room")
            self._metrics.gauge("disk_full", 1)
            self._folder.release()
        self._full_until = self._clock.monotonic() + FULL_RETRY_SECONDS

    def _try_to_heal(self) -> None:
        if self._full_until is not None and self._clock.monotonic() >= self._full_until:
            if self._folder.reserve():
                log.warning("there is room on the disk again; publishes are taken")
                self._metrics.gauge("disk_full", 0)
                self._full_until = None
            else:
                self._full_until = self._clock.monotonic() + FULL_RETRY_SECONDS


def _roll_back(connection: apsw.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except apsw.Error as error:
        log.error("a transaction could not be rolled back", error=str(error))


def _refuse(appends: Sequence[_Append], tasks: Sequence[_Task[object]], refusal: Refusal) -> None:
    for append in appends:
        if not append.answers.done():
            append.answers.set_result([refusal] * len(append.publications))
    for task in tasks:
        if not task.done.done():
            task.done.set_exception(refusal)


def _unconfirmed() -> Refusal:
    return Refusal("unavailable", "The store could not confirm this; repeat it with the same id.", retry_after=1)


def _full() -> Refusal:
    return Refusal("insufficient_storage", "There is no room to store this; nothing was stored.", retry_after=5)
