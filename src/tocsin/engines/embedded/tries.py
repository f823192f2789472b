"""One message tried alone, and what is written down of it: its tries, its reason, its death.

    LogQueue (a lane) -> attempt -> the consumer -> done | another try | a dead letter

Rules:
- what has failed is kept with its count of tries outside the log, so that kill -9 does not forget it;
- what was in flight at an unclean end is a suspect: each try of it is counted before it begins, because it may not end.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from tocsin.bus import Consumer
from tocsin.clock import Clock
from tocsin.engines.embedded.group_commit import GroupCommit, Job
from tocsin.engines.embedded.sql import QUERY
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.metrics import Metrics
from tocsin.topology import Queue

log = structlog.get_logger(__name__)

#: Seconds before the second and the third try: a poisoned chat goes on within 5 s.
RETRY_SECONDS: Final = (0.25, 1.0)


class Entry:
    """A message that is not simply passed on: it failed, was in flight at a crash, is replayed, or waits behind one."""

    __slots__ = ("attempts", "failure", "kept", "message", "suspect")

    def __init__(
        self,
        message: Message,
        *,
        attempts: int = 0,
        kept: bool = False,
        suspect: bool = False,
        failure: Exception | None = None,
    ) -> None:
        self.message = message
        self.attempts = attempts
        #: Whether it has a row in `undelivered`.
        self.kept = kept
        #: Whether it may have brought the process down: its tries are counted before they begin.
        self.suspect = suspect
        #: How a try of it alone has just ended; it is not counted yet.
        self.failure = failure


class Tries:
    def __init__(
        self,
        queue: Queue,
        *,
        commits: GroupCommit,
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
        settled: Callable[[Sequence[Message]], None],
        died: Callable[[Queue, Message], None],
    ) -> None:
        self._queue = queue
        self._commits = commits
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints
        self._settled = settled
        self._died = died
        self.consumer: Consumer | None = None

    async def attempt(self, entry: Entry) -> bool:
        """Whether the entry is done with: delivered, or dead."""
        message = entry.message
        if entry.suspect:
            if entry.attempts >= self._queue.attempts:
                await self._bury(entry, "no_verdict: it was being tried when the process ended, each time")
                return True
            entry.attempts += 1
            if not await self.keep(entry, "in flight when the process ended", dead=False):
                entry.attempts -= 1
                await self._clock.sleep(RETRY_SECONDS[-1])
                return False
        failure, entry.failure = entry.failure or await self._consume_alone(message), None
        if failure is None:
            while entry.kept and not await self._forget(message):
                await self._clock.sleep(RETRY_SECONDS[-1])
            self._settled([message])
            return True
        if not entry.suspect:
            entry.attempts += 1
        entry.suspect = False  # from here on a try is counted when it has ended
        log.warning("a message failed", queue=self._queue.name, message=message.message_id, attempts=entry.attempts)
        if entry.attempts >= self._queue.attempts:
            await self._bury(entry, reason_of(failure))
            return True
        await self.keep(entry, reason_of(failure), dead=False)
        return False

    async def _consume_alone(self, message: Message) -> Exception | None:
        assert self.consumer is not None
        try:
            await self.consumer([message])
        except Exception as error:  # noqa: BLE001 - whatever fails a try is its reason
            return error
        return None

    async def _forget(self, message: Message) -> bool:
        row = (self._queue.name, message.message_id)
        return await self._write(lambda connection: connection.execute(QUERY["settle_undelivered"], row).get)

    async def _bury(self, entry: Entry, reason: str) -> None:
        self._failpoints.hit("deadletter.before")
        while not await self.keep(entry, reason, dead=True):
            await self._clock.sleep(RETRY_SECONDS[-1])
        self._failpoints.hit("deadletter.after")
        self._metrics.count("dead_letters", label=self._queue.name)
        log.error("a message is dead", queue=self._queue.name, message=entry.message.message_id, reason=reason)
        self._died(self._queue, entry.message)

    async def keep(self, entry: Entry, reason: str, *, dead: bool) -> bool:
        """Writes down what became of a try; False: it could not be written (a full disk), so it is tried again."""
        message = entry.message
        row = {
            "queue": self._queue.name,
            "message_id": message.message_id,
            "position": message.position,
            "sequence": message.sequence_number,
            "timestamp": message.timestamp,
            "dead": int(dead),
            "attempts": entry.attempts,
            "reason": reason,
            "now": self._clock.now(),
            "body": message.body,
        }
        kept = await self._write(lambda connection: connection.execute(QUERY["upsert_undelivered"], row).get)
        entry.kept = entry.kept or kept
        return kept

    async def _write(self, job: Job[object]) -> bool:
        try:
            await self._commits.write(job)
        except Refusal as refusal:
            log.error("what became of a message could not be written down", code=refusal.code)
            return False
        return True


def reason_of(failure: Exception) -> str:
    reason = failure.code if isinstance(failure, Refusal) else f"{type(failure).__name__}: {failure}"
    return reason[:500]
