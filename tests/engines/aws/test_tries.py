"""Tries on SQS: counted by our code, each message alone, ended in time; and what becomes of the dead.

No pump here: what SQS hands over, and whether the function dies over it, is the test's.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from botocore.stub import Stubber

from tests.engines.aws.containers import tap
from tests.manual_clock import ManualClock
from tests.ministack import MAX_RECEIVES, Stage
from tocsin.bus import DeadLetter
from tocsin.engines.aws.bus_format import message_of
from tocsin.engines.aws.calls import until
from tocsin.engines.aws.engine import AwsEngine
from tocsin.engines.aws.sqs_dead_letters import HIDDEN, REDRIVEN
from tocsin.engines.aws.sqs_queue import DEADLINE, RESERVE, RETRY_SECONDS, Record
from tocsin.errors import Refusal
from tocsin.failpoints import FailpointError, Failpoints
from tocsin.message import Message, MessageIds, MessageType, Publication
from tocsin.topology import MESSAGE_STORAGE_QUEUE, QUEUES, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, Queue

pytestmark = pytest.mark.slow
FIFO, STANDARD, STORAGE = WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, MESSAGE_STORAGE_QUEUE


class Listeners:
    """Who is told of the dead."""

    def __init__(self) -> None:
        self.told: list[Message] = []

    async def skipped(self, messages: Sequence[Message]) -> None:
        self.told += messages


def at_once(params: dict[str, Any], **_: object) -> None:
    """The emulator is one server: it need not be waited for until all have answered."""
    params["WaitTimeSeconds"] = 0


class Function:
    """A consumer on the engine. It fails for what holds "poison" and hangs over what holds "slow"."""

    def __init__(self, stage: Stage, failpoints: str = "") -> None:
        self.stage = stage
        self.clock = ManualClock()
        self.engine = AwsEngine(stage.settings(), clock=self.clock, failpoints=Failpoints(failpoints))
        self.ids = MessageIds(lambda bits: 7)
        self.batches: list[list[str]] = []
        self.is_cured = False
        self.hidden = tap(self.engine.sqs, "ChangeMessageVisibility")
        self.looks = tap(self.engine.sqs, "ReceiveMessage")
        self.engine.sqs.client.meta.events.register("before-parameter-build.sqs.ReceiveMessage", at_once)
        self.listeners = Listeners()
        msgspec.structs.force_setattr(self.engine.protocols, "clients", self.listeners)
        for queue in QUEUES:
            self.engine.bus.consume(queue, self._consume)

    async def _consume(self, messages: Sequence[Message]) -> None:
        self.batches.append([message.message_id for message in messages])
        if any(b"slow" in message.body for message in messages):
            await asyncio.get_running_loop().create_future()
        if not self.is_cured and any(b"poison" in message.body for message in messages):
            raise RuntimeError("it tastes of poison")

    async def publish(self, content: str, *, chat: str = "c1", kind: MessageType = "fifo") -> Publication:
        message_id, timestamp = self.ids.draw(self.clock.now())
        one = Publication(
            message_id=message_id,
            timestamp=timestamp,
            sender_id="alice",
            chat_id=chat,
            target_channel="WebSocket",
            message_type=kind,
            payload=b'{"chatId":"%b","eventType":"chat","content":"%b"}' % (chat.encode(), content.encode()),
            numbered=kind == "fifo",
        )
        (answer,) = await self.engine.bus.publish([one])
        assert not isinstance(answer, Refusal)
        return one

    def url(self, queue: Queue) -> str:
        return self.stage.queues[queue.name]

    def receive(self, queue: Queue, number: int = 1, *, wait: int = 0) -> list[Record]:
        """As Lambda does."""
        found = self.stage.services.sqs.receive_message(
            QueueUrl=self.url(queue),
            MaxNumberOfMessages=number,
            WaitTimeSeconds=wait,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return [
            Record(
                transport_id=one["MessageId"],
                receipt=one["ReceiptHandle"],
                body=one["Body"],
                receives=int(one["Attributes"]["ApproximateReceiveCount"]),
            )
            for one in found.get("Messages", [])
        ]

    async def hand_over(self, queue: Queue, records: Sequence[Record]) -> list[str]:
        """What is done is deleted, as Lambda does it; what failed is there again at once."""
        failed = await self.clock.run(self.engine.bus.handle(queue, records))
        for record in records:
            if record.transport_id in failed:
                self.show(queue, record)
            else:
                self.stage.services.sqs.delete_message(QueueUrl=self.url(queue), ReceiptHandle=record.receipt)
        return failed

    def show(self, queue: Queue, record: Record) -> None:
        """The time for which it is hidden is over."""
        self.stage.services.sqs.change_message_visibility(
            QueueUrl=self.url(queue), ReceiptHandle=record.receipt, VisibilityTimeout=0
        )

    async def until_empty(self, queue: Queue) -> int:
        """So often something was handed over."""
        for times in range(MAX_RECEIVES):
            records = self.receive(queue, queue.batch_size)
            if not records:
                return times
            await self.hand_over(queue, records)
        raise AssertionError("it goes on for ever")

    async def letters(self) -> Sequence[DeadLetter]:
        return await self.engine.bus.dead_letters()

    def tries(self) -> list[dict[str, Any]]:
        table = self.stage.tables["ClaimTable"]
        items = self.stage.services.dynamodb.scan(TableName=table, ConsistentRead=True)["Items"]
        return [item for item in items if item["claim"]["S"].startswith("try#")]


@pytest.fixture
def function(stage: Stage) -> Iterator[Function]:
    made = Function(stage)
    yield made
    made.engine.close()


# -- what is a try ---------------------------------------------------------------------------------------------------


async def test_what_is_done_at_once_costs_no_count(function: Function) -> None:
    await function.publish("fine")
    assert await function.until_empty(FIFO) == 1
    assert function.tries() == []


async def test_a_receive_that_never_came_to_us_is_no_try(function: Function) -> None:
    """Lambda was throttled: SQS counts it, we do not."""
    await function.publish("poison")
    for _ in range(4):
        (record,) = function.receive(FIFO)
        function.show(FIFO, record)
    assert await function.until_empty(FIFO) == 3
    (letter,) = await function.letters()
    assert (letter.attempts, letter.reason) == (3, "RuntimeError: it tastes of poison")


async def test_who_is_killed_each_time_dies_untried_in_the_end(function: Function) -> None:
    await function.publish("deadly")
    for _ in range(4):
        (record,) = function.receive(FIFO)
        await kill(function, record)
    function.batches.clear()
    (record,) = function.receive(FIFO)
    assert await function.hand_over(FIFO, [record]) == []
    assert function.batches == []
    (letter,) = await function.letters()
    assert (letter.attempts, letter.reason.partition(":")[0]) == (3, "no_verdict")


async def kill(function: Function, record: Record) -> None:
    """In the middle of the try: nothing of it is left but that it had begun."""
    gate = asyncio.Event()

    async def hang(messages: Sequence[Message]) -> None:
        gate.set()
        await asyncio.get_running_loop().create_future()

    function.engine.bus.consume(FIFO, hang)
    handling = asyncio.ensure_future(function.engine.bus.handle(FIFO, [record]))
    await gate.wait()
    handling.cancel()
    await asyncio.gather(handling, return_exceptions=True)
    function.engine.bus.consume(FIFO, function._consume)
    function.show(FIFO, record)


async def test_kills_between_failures_take_no_try_away(function: Function) -> None:
    await function.publish("poison")
    for step in ("fail", "kill", "fail", "kill"):
        (record,) = function.receive(FIFO)
        await (kill(function, record) if step == "kill" else function.hand_over(FIFO, [record]))
    assert await function.letters() == []
    assert await function.until_empty(FIFO) == 1
    (letter,) = await function.letters()
    assert (letter.attempts, letter.reason) == (3, "RuntimeError: it tastes of poison")


async def test_what_was_done_and_comes_again_and_again_does_not_die_of_it(function: Function) -> None:
    """Lambda could not delete it; or SQS hands it over twice, as a standard queue may."""
    await function.publish("fine", kind="standard")
    for _ in range(MAX_RECEIVES - 1):
        (record,) = function.receive(STANDARD)
        assert await function.clock.run(function.engine.bus.handle(STANDARD, [record])) == []
        function.show(STANDARD, record)
    assert await function.letters() == []


async def test_while_tries_can_not_be_counted_messages_wait_and_none_dies(function: Function) -> None:
    await function.publish("poison")
    with Stubber(function.engine.dynamodb.client) as stubber:
        for _ in range(5):
            for _ in range(200):
                stubber.add_client_error("update_item", "ThrottlingException")
            (record,) = function.receive(FIFO)
            assert await function.hand_over(FIFO, [record]) == [record.transport_id]
    assert function.tries() == []
    assert [call["VisibilityTimeout"] for call in function.hidden] == [RETRY_SECONDS[-1]] * 5
    assert await function.until_empty(FIFO) == 3


# -- when it ends ----------------------------------------------------------------------------------------------------


async def test_a_try_that_hangs_ends_while_there_is_time_for_a_verdict(function: Function) -> None:
    await function.publish("slow")
    (record,) = function.receive(FIFO)
    began = function.clock.monotonic()
    with until(began + 59.0):
        assert await function.hand_over(FIFO, [record]) == [record.transport_id]
    assert function.clock.monotonic() - began == pytest.approx(DEADLINE, abs=1)
    (tally,) = function.tries()
    assert tally["reason"]["S"] == "TimeoutError: it took longer than 45 s"


async def test_where_the_function_has_less_time_so_has_the_try(function: Function) -> None:
    """message-storage has 30 s."""
    await function.publish("slow")
    (record,) = function.receive(STORAGE)
    began = function.clock.monotonic()
    with until(began + 29.0):
        assert await function.hand_over(STORAGE, [record]) == [record.transport_id]
    assert function.clock.monotonic() - began == pytest.approx(29 - RESERVE, abs=1)


async def test_a_batch_that_hangs_counts_against_nobody_and_then_only_against_the_one_that_does(
    function: Function,
) -> None:
    made = [await function.publish(content, kind="standard") for content in ("fine", "slow", "fine too")]
    for left in (3, 2, 2, 1):  # who stands behind it waits, and is not counted
        records = function.receive(STORAGE, 10)
        with until(function.clock.monotonic() + 29.0):
            assert len(await function.hand_over(STORAGE, records)) == left
        assert len(function.tries()) == (0 if left == 3 else 2)
    await function.until_empty(STORAGE)
    (letter,) = await function.letters()
    assert (letter.message_id, letter.attempts) == (made[1].message_id, 3)


async def test_a_message_that_kills_takes_no_other_of_its_batch_with_it(function: Function) -> None:
    made = [await function.publish(content, kind="standard") for content in ("fine", "deadly", "fine too")]
    gate = asyncio.Event()
    tried: list[str] = []

    async def die(messages: Sequence[Message]) -> None:
        for message in messages:
            if b"deadly" in message.body:
                gate.set()
                await asyncio.get_running_loop().create_future()
            tried.append(message.message_id)

    function.engine.bus.consume(STORAGE, die)
    for _ in range(4):
        records = function.receive(STORAGE, 10)
        gate.clear()
        handling = asyncio.ensure_future(function.engine.bus.handle(STORAGE, records))
        await function.clock.run(gate.wait())
        handling.cancel()
        await asyncio.gather(handling, return_exceptions=True)
        for record in records:
            function.show(STORAGE, record)
    await function.until_empty(STORAGE)
    (letter,) = await function.letters()
    assert (letter.message_id, letter.reason.partition(":")[0]) == (made[1].message_id, "no_verdict")
    assert {made[0].message_id, made[2].message_id} <= set(tried)


async def test_a_failure_hides_the_message_for_a_second_and_then_for_four(function: Function) -> None:
    await function.publish("poison")
    await function.until_empty(FIFO)
    assert [call["VisibilityTimeout"] for call in function.hidden] == [1, 4]


async def test_sqs_hands_it_over_again_when_that_time_is_over(function: Function) -> None:
    """By SQS's own clock; the queue itself would hide it for six minutes."""
    await function.publish("poison")
    (record,) = function.receive(FIFO)
    assert await function.clock.run(function.engine.bus.handle(FIFO, [record])) == [record.transport_id]
    assert function.receive(FIFO) == []
    (again,) = function.receive(FIFO, wait=5)
    assert (again.transport_id, again.receives) == (record.transport_id, 2)


# -- batches ---------------------------------------------------------------------------------------------------------


async def test_the_innocent_of_a_batch_are_tried_alone_and_not_counted(function: Function) -> None:
    made = [await function.publish(content, kind="standard") for content in ("one", "poison", "three")]
    records = function.receive(STORAGE, 10)
    failed = await function.hand_over(STORAGE, records)
    assert len(failed) == 1
    assert function.batches == [[one.message_id for one in made], *[[one.message_id] for one in made]]
    (tally,) = function.tries()
    assert tally["claim"]["S"].endswith(made[1].message_id)
    await function.until_empty(STORAGE)
    (letter,) = await function.letters()
    assert letter.message_id == made[1].message_id


async def test_in_a_fifo_batch_nothing_of_a_chat_overtakes_what_failed(function: Function) -> None:
    """The queue's batch size is 1; should somebody raise it, order holds."""
    made = [await function.publish(content) for content in ("one", "poison", "three")]
    other = await function.publish("other", chat="c2")
    records = function.receive(FIFO, 10)
    failed = await function.hand_over(FIFO, records)
    assert [one for batch in function.batches for one in batch] == [
        made[0].message_id,
        made[1].message_id,
        other.message_id,
    ]
    assert failed == [records[1].transport_id, records[2].transport_id]
    assert [call["VisibilityTimeout"] for call in function.hidden] == [1, 0]


# -- dead letters ----------------------------------------------------------------------------------------------------


async def test_each_letter_has_a_group_of_its_own_and_hides_no_other(function: Function) -> None:
    sent = tap(function.engine.sqs, "SendMessage")
    for _ in range(2):
        await function.publish("poison")
    await function.until_empty(FIFO)
    first, second = await function.letters()
    assert {call["MessageGroupId"] for call in sent} == {first.message_id, second.message_id}
    assert {call["MessageAttributes"]["chatId"]["StringValue"] for call in sent} == {"c1"}
    held = function.stage.services.sqs.receive_message(
        QueueUrl=function.stage.queues[FIFO.dead_letters], MaxNumberOfMessages=1
    )
    assert len(held["Messages"]) == 1
    assert len(await function.letters()) == 1


async def test_who_dies_between_the_letter_and_its_mark_sends_it_again_under_the_same_name(
    function: Function,
) -> None:
    await function.publish("poison", kind="standard")
    for _ in range(2):
        (record,) = function.receive(STANDARD)
        await function.hand_over(STANDARD, [record])
    (record,) = function.receive(STANDARD)
    with Stubber(function.engine.dynamodb.client) as stubber:
        counted = {"failed": {"N": "3"}, "since": {"N": "1"}, "reason": {"S": "RuntimeError: it tastes of poison"}}
        stubber.add_response("update_item", {"Attributes": counted | {"open": {"N": "2"}}})  # begun
        stubber.add_client_error("update_item", "AccessDeniedException")  # the mark
        with pytest.raises(Exception, match="AccessDenied"):
            await function.clock.run(function.engine.bus.handle(STANDARD, [record]))
    function.show(STANDARD, record)
    assert await function.until_empty(STANDARD) == 1
    (letter,) = await function.letters()
    assert function.stage.services.sqs.get_queue_attributes(
        QueueUrl=function.stage.queues[STANDARD.dead_letters], AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"] == {"ApproximateNumberOfMessages": "2"}
    function.is_cured = True
    function.batches.clear()
    assert await function.engine.bus.replay([letter.letter_id]) == 1
    await function.until_empty(STANDARD)
    assert function.batches == [[letter.message_id]]
    assert await function.letters() == []


@pytest.mark.parametrize("failpoint", ["deadletter.before", "deadletter.after"])
async def test_who_dies_around_a_burial_leaves_one_letter_and_no_further_try(stage: Stage, failpoint: str) -> None:
    function = Function(stage, f"{failpoint}=raise@1")
    await function.publish("poison")
    for _ in range(2):
        (record,) = function.receive(FIFO)
        await function.hand_over(FIFO, [record])
    (record,) = function.receive(FIFO)
    with pytest.raises(FailpointError):
        await function.clock.run(function.engine.bus.handle(FIFO, [record]))
    function.show(FIFO, record)
    function.batches.clear()
    assert await function.until_empty(FIFO) == 1
    assert function.batches == []
    (letter,) = await function.letters()
    assert letter.attempts == 3
    function.engine.close()


async def test_a_text_that_nobody_can_read_dies_like_a_message_and_is_shown_as_it_came(function: Function) -> None:
    function.stage.services.sqs.send_message(QueueUrl=function.url(STANDARD), MessageBody='{"v":99,"new":"format"}')
    assert await function.until_empty(STANDARD) == 3
    assert function.batches == []
    (letter,) = await function.letters()
    assert (letter.attempts, letter.chat_id, letter.sequence_number) == (3, "", None)
    assert letter.reason.startswith("UnknownFormat: its format is version 99")
    assert bytes(letter.body) == b'"{\\"v\\":99,\\"new\\":\\"format\\"}"'
    assert await function.engine.bus.replay([letter.letter_id]) == 1
    (record,) = function.receive(STANDARD)
    assert record.body == '{"v":99,"new":"format"}'


async def test_what_the_queue_itself_has_moved_is_a_letter_too(function: Function) -> None:
    one = await function.publish("fine")
    for _ in range(MAX_RECEIVES):
        (record,) = function.receive(FIFO)
        function.show(FIFO, record)
    assert function.receive(FIFO) == []
    (letter,) = await function.letters()
    assert (letter.message_id, letter.chat_id, letter.reason) == (one.message_id, "c1", REDRIVEN)
    assert await function.engine.bus.replay(None) == 1
    await function.until_empty(FIFO)
    assert function.batches == [[one.message_id]]


async def test_a_replay_goes_under_a_new_transport_id_with_tries_of_its_own(function: Function) -> None:
    one = await function.publish("poison")
    await function.until_empty(FIFO)
    sent = tap(function.engine.sqs, "SendMessage")
    assert await function.engine.bus.replay(None) == 1
    (call,) = sent
    assert call["QueueUrl"] == function.url(FIFO)
    assert (call["MessageGroupId"], call["MessageDeduplicationId"] == one.message_id) == ("c1", False)
    assert await function.until_empty(FIFO) == 3
    (letter,) = await function.letters()
    assert letter.message_id == one.message_id
    assert await function.engine.bus.replay(None) == 1
    function.is_cured = True
    assert await function.until_empty(FIFO) == 1
    assert await function.letters() == []


async def test_a_letter_shows_the_number_that_its_message_has_by_now(function: Function) -> None:
    """It was dead before it was numbered: it is hidden until its replay, and has the next number then."""
    one = await function.publish("poison")
    await function.until_empty(FIFO)
    (letter,) = await function.letters()
    assert (letter.sequence_number, bytes(letter.body)) == (None, one.render(None))
    (numbered,) = await function.engine.protocols.numbers.number([message_of(one)])
    (letter,) = await function.letters()
    assert (letter.sequence_number, bytes(letter.body)) == (1, numbered.body)


async def test_listeners_are_told_of_a_number_that_will_not_come_and_of_nothing_else(function: Function) -> None:
    numbered, plain = await function.publish("poison"), await function.publish("poison", kind="standard")
    await function.engine.protocols.numbers.number([message_of(numbered)])
    await function.publish("poison, and not numbered")
    for queue in QUEUES:
        await function.until_empty(queue)
    assert sorted((one.message_id, one.sequence_number or 0) for one in function.listeners.told) == [
        (numbered.message_id, 1),
        (plain.message_id, 0),
    ]


async def test_letters_beyond_what_sqs_takes_travel_too(function: Function) -> None:
    await function.publish("poison \uffff", kind="standard")
    await function.until_empty(STANDARD)
    (letter,) = await function.letters()
    assert "poison \uffff" in bytes(letter.body).decode()
    assert await function.engine.bus.replay(None) == 1
    (record,) = function.receive(STANDARD)
    assert "\uffff" not in record.body


async def test_a_list_looks_through_all_letters_and_hides_none_for_long(function: Function) -> None:
    for chat in range(25):
        await function.publish("poison", chat=f"c{chat}")
        function.clock.advance(1)
    records = function.receive(FIFO, 10)
    while records:
        await function.hand_over(FIFO, records)
        records = function.receive(FIFO, 10)
    for _ in range(2):
        found = await function.engine.bus.dead_letters(limit=30)
        assert len({letter.letter_id for letter in found}) == 25
    assert len(await function.engine.bus.dead_letters(limit=3)) == 3
    assert await function.engine.bus.purge([letter.letter_id for letter in found[:20]]) == 20
    assert len(await function.letters()) == 5
    assert await function.engine.bus.purge(None) == 5
    assert {look["WaitTimeSeconds"] for look in function.looks} == {1}  # a short poll asks only some servers
    assert {look["VisibilityTimeout"] for look in function.looks} == {HIDDEN}
