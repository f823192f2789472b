"""One queue's consumer: what Lambda hands over, tried, counted, and buried after the last try.

    Lambda -> handle -> begin (a second receive is counted) -> the consumer -> done
                                                               failed -> visible again soon -> ... -> dead letter

Rules:
- a batch that fails is tried message by message, so that only the guilty one is counted. What was received before is
  tried alone from the start, one after another: who hangs or kills takes nobody's try with him;
- a FIFO queue's messages are tried one after another, and nothing of a chat overtakes one that failed;
- a try ends at DEADLINE, well before Lambda would end the function: then there is a verdict;
- what could not be counted is no try: where DynamoDB is away, messages wait, and none dies of it;
- the letter is sent before the message is marked dead, and marked before it is done: who dies in between sends the
  letter again, under the same name.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from botocore.exceptions import ClientError

from tocsin.bus import Consumer, Depth
from tocsin.clock import Clock
from tocsin.engines.aws import bus_format
from tocsin.engines.aws.bus_format import Carried, UnknownFormat
from tocsin.engines.aws.calls import Calls, Unreachable, code_of, deadline, until
from tocsin.engines.aws.dynamodb_tries import DynamodbTries, Tally
from tocsin.engines.aws.sqs_dead_letters import Letter, SqsDeadLetters, count, letter_id
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.metrics import Metrics
from tocsin.topology import Queue

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger(__name__)

#: Seconds that a try may take (the processor has 60), and those that are left for its verdict in any case.
DEADLINE: Final = 45.0
RESERVE: Final = 5.0
#: Seconds until a message that failed once, and twice, is visible again.
RETRY_SECONDS: Final = (1, 4)
NO_VERDICT: Final = "no_verdict: it was being tried when the function ended, each time"

#: A live queue's message became a dead letter.
Died = Callable[[Queue, Message], Awaitable[None]]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A message as SQS hands it over. `receives` counts this one, too."""

    transport_id: str
    receipt: str
    body: str
    receives: int


class _Try(msgspec.Struct, kw_only=True):
    """One record on its way to a verdict. `carried` is None where its text could not be read: `failure` says why."""

    record: Record
    letter_id: str
    carried: Carried | None = None
    failure: Exception | None = None
    is_done: bool = False

    @property
    def is_fresh(self) -> bool:
        """Never received before: nothing speaks against it."""
        return self.carried is not None and self.record.receives < 2

    @property
    def lane(self) -> str:
        return self.letter_id if self.carried is None else self.carried.message.chat_id


class SqsQueue:
    def __init__(
        self,
        queue: Queue,
        *,
        sqs: "Calls[SQSClient]",
        url: str,
        tries: DynamodbTries,
        letters: SqsDeadLetters,
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
        died: Died,
    ) -> None:
        self.queue: Final = queue
        self.url: Final = url
        self.letters: Final = letters
        self._sqs = sqs
        self._tries = tries
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints
        self._died = died
        self.consumer: Consumer | None = None

    async def depth(self) -> Depth:
        """SQS does not tell how old the oldest is; CloudWatch does."""
        waiting, dead = await asyncio.gather(count(self._sqs, self.url), self.letters.count())
        return Depth(queue=self.queue.name, waiting=waiting, oldest_age=0.0, dead_letters=dead)

    async def handle(self, records: Sequence[Record]) -> list[str]:
        """One batch of Lambda's; the transport ids of what is not done (batchItemFailures)."""
        tries = [self._read(record) for record in records]
        if self.queue.fifo:
            await self._attempt_in_order(tries)
        else:
            await self._attempt_together([one for one in tries if one.is_fresh])
            for one in tries:
                if not one.is_done:
                    await self._attempt(one)
        return [one.record.transport_id for one in tries if not one.is_done]

    def _read(self, record: Record) -> _Try:
        try:
            carried = bus_format.read(record.body)
        except UnknownFormat as error:
            name = letter_id(self.queue, record.transport_id, None)
            return _Try(record=record, letter_id=name, failure=error)
        name = letter_id(self.queue, carried.message.message_id, carried.replay)
        return _Try(record=record, letter_id=name, carried=carried)

    async def _attempt_in_order(self, tries: Sequence[_Try]) -> None:
        stuck: set[str] = set()
        for one in tries:
            if one.lane in stuck:
                await self._hide(one, 0)
                continue
            await self._attempt(one)
            if not one.is_done:
                stuck.add(one.lane)

    async def _attempt_together(self, tries: Sequence[_Try]) -> None:
        if len(tries) > 1:
            failure = await self._consume(tries)
            for one in tries:
                one.is_done = failure is None
            if failure is not None:
                log.info("a batch failed; each of its messages is tried alone", extra={"queue": self.queue.name})

    # -- one try -------------------------------------------------------------------------------------------------------

    async def _attempt(self, one: _Try) -> None:
        if self._end_of_try() - self._clock.monotonic() < RESERVE:
            await self._hide(one, RETRY_SECONDS[0])  # it would be no fair try, and is none
        elif await self._begin(one):
            failure = one.failure or await self._consume([one])
            await (self._succeed(one) if failure is None else self._fail(one, failure))

    async def _begin(self, one: _Try) -> bool:
        """Whether it is to be tried. A first receive costs nothing; each later one is counted before it begins."""
        if one.record.receives < 2:
            return True
        try:
            tally = await self._tries.begin(one.letter_id, self._clock.now())
        except Unreachable:
            await self._hide(one, RETRY_SECONDS[-1])
            return False
        if tally.is_dead:
            one.is_done = True
        elif tally.failed >= self.queue.attempts:
            await self._bury(one, tally, tally.reason)
        elif tally.open > self.queue.attempts:
            await self._bury(one, tally, NO_VERDICT)
        else:
            return True
        return False

    async def _consume(self, tries: Sequence[_Try]) -> Exception | None:
        """How it failed, if it did."""
        messages = [one.carried.message for one in tries if one.carried is not None]
        assert self.consumer is not None
        now, end = self._clock.monotonic(), self._end_of_try()
        with until(end):
            trying = asyncio.ensure_future(self.consumer(messages))
        alarm = asyncio.ensure_future(self._clock.sleep(end - now))
        try:
            await asyncio.wait((trying, alarm), return_when=asyncio.FIRST_COMPLETED)
            if not trying.done():
                return TimeoutError(f"it took longer than {end - now:.0f} s")
            error = trying.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            return error
        finally:
            trying.cancel()
            alarm.cancel()

    def _end_of_try(self) -> float:
        now = self._clock.monotonic()
        return min(now + DEADLINE, deadline(self._clock, otherwise=DEADLINE + RESERVE) - RESERVE)

    async def _succeed(self, one: _Try) -> None:
        one.is_done = True
        if one.record.receives > 1:
            with suppress(Unreachable):  # it stays open: that matters only if it comes again and never ends
                await self._tries.succeeded(one.letter_id, self._clock.now())

    async def _fail(self, one: _Try, failure: Exception) -> None:
        was_begun = one.record.receives > 1
        try:
            tally = await self._tries.failed(one.letter_id, self._clock.now(), reason_of(failure), was_begun=was_begun)
        except Unreachable:
            await self._hide(one, RETRY_SECONDS[-1])
            return
        log.warning("a message failed", extra={"letter": one.letter_id, "attempts": tally.failed})
        if tally.failed >= self.queue.attempts:
            await self._bury(one, tally, tally.reason)
        else:
            await self._hide(one, RETRY_SECONDS[min(tally.failed, len(RETRY_SECONDS)) - 1])

    async def _hide(self, one: _Try, seconds: int) -> None:
        """So long, instead of six times the function's timeout. Its chat waits as long as it does."""
        try:
            await self._sqs(
                lambda client: client.change_message_visibility(
                    QueueUrl=self.url, ReceiptHandle=one.record.receipt, VisibilityTimeout=seconds
                )
            )
        except (ClientError, Unreachable) as error:  # then it comes back when its time is over
            code = code_of(error) if isinstance(error, ClientError) else error.code
            log.warning("a message's visibility stays as it is", extra={"letter": one.letter_id, "code": code})

    async def _bury(self, one: _Try, tally: Tally, reason: str) -> None:
        now = self._clock.now()
        await self._failpoints.reach("deadletter.before")
        try:
            await self.letters.send(
                one.record.body,
                one.carried,
                Letter(
                    letter_id=one.letter_id,
                    reason=reason,
                    attempts=max(tally.failed, self.queue.attempts),
                    first_failed_at=tally.since,
                    last_failed_at=now,
                ),
            )
            await self._tries.bury(one.letter_id, now)
        except Unreachable:
            await self._hide(one, RETRY_SECONDS[-1])
            return
        one.is_done = True
        await self._failpoints.reach("deadletter.after")
        self._metrics.count("dead_letters", label=self.queue.dead_letters)
        log.error("a message is dead", extra={"letter": one.letter_id, "reason": reason})
        if one.carried is not None:
            try:
                await self._died(self.queue, one.carried.message)
            except Exception as error:  # noqa: BLE001 - the letter stands; the next number shows what is missing
                log.error("a death could not be told", extra={"letter": one.letter_id, "error": reason_of(error)})


def reason_of(failure: Exception) -> str:
    reason = failure.code if isinstance(failure, Refusal) else f"{type(failure).__name__}: {failure}"
    return reason[:500]
