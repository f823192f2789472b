"""What stands between SQS and a function on AWS (the event source mapping), with the test's clock in place of SQS's.

    SQS (real) -> EventSource: receive, hand over, delete what is done -> the functions' entry points -> SnsBus.handle

Rules:
- a queue's batch size is topology's; of a FIFO queue's group one message is in flight, as SQS has it;
- what brings something into a queue goes through the engine's clients, and wakes the pump: nothing is polled;
- a visibility that our code asks for passes on the test's clock. SQS itself never waits: it is told when it is over;
- while AWS is at work, the test's clock does not run ahead of it.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from tests.manual_clock import ManualClock
from tests.ministack import Services
from tocsin.engines.aws.calls import Calls
from tocsin.engines.aws.engine import AwsEngine
from tocsin.engines.aws.settings import AwsSettings
from tocsin.gateways.aws_events import Batch
from tocsin.profiles import aws
from tocsin.topology import MESSAGE_STORAGE_QUEUE, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, Queue

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: Seconds for which SQS hides what is in flight, or waits for another try: longer than any test.
FOR_LONG: Final = 3_600
#: What puts something into a queue, or lets it be seen.
NEWS: Final = (
    "after-call.sns.Publish",
    "after-call.sns.PublishBatch",
    "after-call.sqs.SendMessage",
)


#: Who is handed a queue's batches.
ENTRY_POINTS: Final = {
    WEBSOCKET_FIFO_QUEUE: aws.processor,
    WEBSOCKET_STANDARD_QUEUE: aws.processor,
    MESSAGE_STORAGE_QUEUE: aws.message_storage,
}


class Functions:
    """What processor and message-storage need of their process."""

    def __init__(self, consume: Callable[[Batch], Awaitable[Sequence[str]]]) -> None:
        self.consume: Final = consume


class EventSource:
    """One queue's."""

    def __init__(self, queue: Queue, url: str, functions: Functions, services: Services) -> None:
        self.queue: Final = queue
        self.url: Final = url
        self._functions = functions
        self._sqs = services.sqs
        self._threads = services.threads
        self._news = asyncio.Event()
        self._news.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: set[str] = set()
        self._is_over = False
        self._receiving = asyncio.ensure_future(self._run())

    def wake(self) -> None:
        self._news.set()

    async def stop(self) -> None:
        """As a kill. What was in flight comes again at once: the time for which SQS hides it is not waited for."""
        self._is_over = True
        self._news.set()
        await self._receiving
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*[self._show(receipt) for receipt in self._in_flight])

    async def later(self, receipt: str, seconds: int, clock: ManualClock) -> None:
        await clock.sleep(seconds)
        if not self._is_over:
            await self._show(receipt)
            self._news.set()

    async def _run(self) -> None:
        while not self._is_over:
            await self._news.wait()
            self._news.clear()
            while not self._is_over and (batch := await self._receive()):
                self._in_flight |= {one["ReceiptHandle"] for one in batch}
                if not self._is_over:
                    task = asyncio.ensure_future(self._hand_over(batch))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _receive(self) -> "list[MessageTypeDef]":
        found = await self._ask(
            self._sqs.receive_message,
            QueueUrl=self.url,
            MaxNumberOfMessages=self.queue.batch_size,
            VisibilityTimeout=FOR_LONG,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages: list[MessageTypeDef] = found.get("Messages", [])
        return messages

    async def _hand_over(self, batch: "Sequence[MessageTypeDef]") -> None:
        records = [
            {
                "messageId": one["MessageId"],
                "receiptHandle": one["ReceiptHandle"],
                "body": one["Body"],
                "attributes": one["Attributes"],
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{self.url.rpartition('/')[2]}",
            }
            for one in batch
        ]
        result = await ENTRY_POINTS[self.queue].on(self._functions, {"Records": records})
        failed = {failure["itemIdentifier"] for failure in result["batchItemFailures"]}
        await self._delete([one["ReceiptHandle"] for one in batch if one["MessageId"] not in failed])
        self._news.set()  # a FIFO chat's next one can be received

    async def _delete(self, receipts: Collection[str]) -> None:
        entries = [{"Id": str(index), "ReceiptHandle": receipt} for index, receipt in enumerate(receipts)]
        if entries:
            await self._ask(self._sqs.delete_message_batch, QueueUrl=self.url, Entries=entries)
            self._in_flight -= set(receipts)

    async def _show(self, receipt: str) -> None:
        """A receipt that was overtaken by another receive, or deleted, changes nothing."""
        entry = {"Id": "0", "ReceiptHandle": receipt, "VisibilityTimeout": 0}
        await self._ask(self._sqs.change_message_visibility_batch, QueueUrl=self.url, Entries=[entry])

    async def _ask(self, method: Any, **arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: method(**arguments))


class EventSources:
    """All three queues'."""

    def __init__(self, engine: AwsEngine, settings: AwsSettings, services: Services, clock: ManualClock) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._waiting: set[asyncio.Task[None]] = set()
        urls = {
            WEBSOCKET_FIFO_QUEUE: settings.fifo_queue_url,
            WEBSOCKET_STANDARD_QUEUE: settings.standard_queue_url,
            MESSAGE_STORAGE_QUEUE: settings.storage_queue_url,
        }
        self._lock = threading.Lock()
        self._calls = 0
        for calls in vars(engine).values():
            if isinstance(calls, Calls):
                calls.client.meta.events.register("before-call", self._on_call)
                for name in ("after-call", "after-call-error"):
                    calls.client.meta.events.register(name, self._on_answer)
        clock.is_busy = lambda: self._calls > 0
        for name in NEWS:
            client = engine.sns.client if ".sns." in name else engine.sqs.client
            client.meta.events.register(name, self._on_news)
        engine.sqs.client.meta.events.register("before-parameter-build.sqs.ChangeMessageVisibility", self._on_hide)
        engine.sqs.client.meta.events.register("before-parameter-build.sqs.ReceiveMessage", self._on_look)
        functions = Functions(aws.consumer(engine.bus, settings))
        self._sources = {url: EventSource(queue, url, functions, services) for queue, url in urls.items()}

    def wake(self) -> None:
        for source in self._sources.values():
            source.wake()

    async def stop(self) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*[source.stop() for source in self._sources.values()])

    # Called in the clients' threads

    def _on_call(self, **_: object) -> None:
        with self._lock:
            self._calls += 1

    def _on_answer(self, **_: object) -> None:
        with self._lock:
            self._calls -= 1

    def _on_news(self, **_: object) -> None:
        self._loop.call_soon_threadsafe(self.wake)

    def _on_hide(self, params: dict[str, Any], **_: object) -> None:
        self._loop.call_soon_threadsafe(
            self._hide, params["QueueUrl"], params["ReceiptHandle"], params["VisibilityTimeout"]
        )
        params["VisibilityTimeout"] = FOR_LONG

    def _on_look(self, params: dict[str, Any], **_: object) -> None:
        params["WaitTimeSeconds"] = 0

    def _hide(self, url: str, receipt: str, seconds: int) -> None:
        task = asyncio.ensure_future(self._sources[url].later(receipt, seconds, self._clock))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
