"""The one reader: queries that arrive while others run go over to its thread together, and come back together.

Rules:
- one query reads one snapshot; what must agree is asked in one statement;
- what was read comes back when that took BATCH_SECONDS, and the rest goes over anew: long pages are not heaped up, and
  who asked for a short one does not wait for all of them.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar, cast

import apsw

from tocsin.engines.embedded.data_folder import DataFolder
from tocsin.errors import Refusal

T = TypeVar("T")

#: Queries that may wait; more are refused.
MAX_WAITING: Final = 20_000
BATCH_SECONDS: Final = 0.005


class _Query:
    __slots__ = ("done", "error", "query", "result")

    def __init__(self, query: Callable[[apsw.Connection], object], done: "asyncio.Future[object]") -> None:
        self.query = query
        self.done = done
        self.result: object = None
        self.error: Exception | None = None


class Reads:
    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Query] = []
        self._busy = False
        self._wake = threading.Semaphore(0)
        self._stopping = False
        #: What the thread has been given, and how many of it have run.
        self._batch: list[_Query] = []
        self._ran = 0
        self._thread = threading.Thread(target=self._work, name="tocsin-reader", daemon=True)
        self._thread.start()

    def run(self, query: Callable[[apsw.Connection], T]) -> "asyncio.Future[T]":
        if len(self._waiting) >= MAX_WAITING or self._stopping:
            raise Refusal("unavailable", "Too many reads are waiting; try again.", retry_after=1)
        done: asyncio.Future[object] = self._loop.create_future()
        self._waiting.append(_Query(query, done))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)
        return cast("asyncio.Future[T]", done)

    def stop(self) -> None:
        """Who still waits is told, and does not wait for ever."""
        self._stopping = True
        self._wake.release()
        self._thread.join()
        for query in (*self._batch, *self._waiting):
            if not query.done.done():
                query.done.set_exception(Refusal("unavailable", "The service stops.", retry_after=1))
        self._batch, self._waiting = [], []

    def _hand_over(self) -> None:
        self._batch, self._waiting = self._waiting, []
        self._wake.release()

    def _work(self) -> None:
        while True:
            self._wake.acquire()
            if self._stopping:
                return
            connection, enough = self._folder.reader, time.monotonic() + BATCH_SECONDS
            self._ran = 0
            for query in self._batch:
                try:
                    query.result = query.query(connection)
                except Exception as error:  # noqa: BLE001 - the query's own caller gets it
                    query.error = error
                self._ran += 1
                if time.monotonic() > enough:
                    break
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        for query in self._batch[: self._ran]:
            if query.done.done():
                continue
            if query.error is None:
                query.done.set_result(query.result)
            else:
                query.done.set_exception(query.error)
        self._waiting = [*self._batch[self._ran :], *self._waiting]
        self._batch = []
        if self._waiting:
            self._hand_over()
        else:
            self._busy = False
