"""Keeps the write-ahead log short without keeping commits waiting.

    GroupCommit, between two commits -> tend -> a checkpoint beside the writer -> its rest in the writer's turn

Rule: most of a long log is copied back on another connection while commits go on, until little is left; that is copied
between two commits, so that the next one begins the file anew.
"""

import asyncio
import os
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

import apsw
import structlog

from tocsin.engines.embedded.data_folder import DataFolder

log = structlog.get_logger(__name__)

#: A write-ahead log of so many pages is copied back. Its file keeps its size and is soon written over: a sync of a file
#: that grows waits for the file system's journal, and took up to 90 ms.
WAL_PAGES: Final = 16_000
NICENESS: Final = 10


def _step_back() -> None:
    """This thread has time: whoever serves a client goes first (Linux gives each thread a niceness of its own)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Checkpoints:
    def __init__(self, folder: DataFolder, writer: Executor) -> None:
        self._folder = folder
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, "tocsin-checkpoint", initializer=_step_back)
        self._running: asyncio.Future[None] | None = None
        self._is_rest_due = False

    async def tend(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_rest_due:
            self._is_rest_due, self._running = False, None
            try:
                await loop.run_in_executor(self._writer, self._folder.finish_checkpoint)
            except apsw.Error as error:
                log.warning("a checkpoint could not be finished", error=str(error))
        elif self._running is None and self._folder.wal_pages > WAL_PAGES:
            self._running = loop.run_in_executor(self._thread, self._folder.checkpoint)
            self._running.add_done_callback(self._ended)

    def _ended(self, done: "asyncio.Future[None]") -> None:
        if (error := done.exception()) is None:
            self._is_rest_due = True
        else:
            self._running = None
            log.warning("a checkpoint failed", error=str(error))

    async def stop(self) -> None:
        if self._running is not None:
            await asyncio.wait([self._running])
        self._thread.shutdown()
