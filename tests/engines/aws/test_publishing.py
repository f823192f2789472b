"""Accepting on AWS: a claim, then SNS, in whatever order containers die, meet and repeat."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from tests.conformance.aws import AwsHarness
from tests.engines.aws.containers import Gate, container, cut, publish, rows_of, tap
from tocsin.bus import Receipt
from tocsin.engines.aws.calls import until
from tocsin.engines.aws.dynamodb_claims import WINDOW
from tocsin.engines.aws.sns_bus import BATCH, BATCH_BYTES, MARGIN
from tocsin.errors import Refusal
from tocsin.failpoints import FailpointError
from tocsin.message import MessageType, timestamp_of

pytestmark = pytest.mark.slow
KINDS: list[MessageType] = ["fifo", "standard"]


def codes(answers: Any) -> list[str]:
    return [answer.code if isinstance(answer, Refusal) else "accepted" for answer in answers]


# -- the claim -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_who_dies_after_the_claim_is_repeated_with_the_first_ones_stamp(
    bare: AwsHarness, kind: MessageType
) -> None:
    first = bare.publication("c1", id="id-1", kind=kind)
    with container(bare, "publish.claimed=raise") as dying, pytest.raises(FailpointError):
        await publish(dying, first)
    bare.clock.advance(60)
    again = await bare.publish("c1", id="id-1", kind=kind)
    assert again == Receipt(message_id=first.message_id, timestamp=first.timestamp, duplicate=True)
    assert timestamp_of(again.message_id) == again.timestamp
    assert [row["messageId"] for row in await bare.history("c1")] == [first.message_id]


@pytest.mark.parametrize("kind", KINDS)
async def test_who_dies_after_sns_is_repeated_and_past_its_memory_too_there_is_one_message(
    bare: AwsHarness, kind: MessageType
) -> None:
    """SNS forgets after five minutes. Both have one id, one stamp and so one place in the table."""
    first = bare.publication("c1", id="id-1", kind=kind)
    assert isinstance(await publish(bare.aws, first), Receipt)
    await bare.settle()
    unsettle(bare)
    bare.clock.advance(6 * 60)
    forget(bare)
    again = await bare.publish("c1", id="id-1", kind=kind)
    assert (again.message_id, again.timestamp) == (first.message_id, first.timestamp)
    await bare.settle()
    assert len(rows_of(bare, "c1")) == 1
    assert await bare.head("c1") == (1 if kind == "fifo" else 0)


def unsettle(harness: AwsHarness) -> None:
    """As if the publisher had died just before it wrote down that SNS has it."""
    dynamodb, table = harness.stage.services.dynamodb, harness.stage.tables["ClaimTable"]
    for item in dynamodb.scan(TableName=table)["Items"]:
        dynamodb.update_item(
            TableName=table,
            Key={"claim": item["claim"]},
            UpdateExpression="SET published = :no",
            ExpressionAttributeValues={":no": {"BOOL": False}},
        )


def forget(harness: AwsHarness) -> None:
    """SNS's five minutes are over: the emulator's clock is not ours, so the id is changed on its way."""

    def rename(params: dict[str, Any], **_: object) -> None:
        for entry in params["PublishBatchRequestEntries"]:
            if "MessageDeduplicationId" in entry:
                entry["MessageDeduplicationId"] += "-again"

    harness.aws.sns.client.meta.events.register("before-parameter-build.sns.PublishBatch", rename)


@pytest.mark.parametrize("kind", KINDS)
async def test_peers_do_not_wait_for_each_other_and_make_one_message(bare: AwsHarness, kind: MessageType) -> None:
    gate = Gate("publish.claimed")
    with container(bare, gate) as slow:
        first = bare.publication("c1", id="id-1", kind=kind)
        publishing = asyncio.ensure_future(publish(slow, first))
        await gate.reached.wait()
        peer = await bare.publish("c1", id="id-1", kind=kind)
        assert peer == Receipt(message_id=first.message_id, timestamp=first.timestamp, duplicate=True)
        await bare.settle()
        gate.opened.set()
        assert await publishing == Receipt(message_id=first.message_id, timestamp=first.timestamp)
    await bare.settle()
    assert len(rows_of(bare, "c1")) == 1


async def test_a_claim_whose_answer_was_lost_is_known_again(bare: AwsHarness) -> None:
    cut(bare.aws.dynamodb, "PutItem")
    one = bare.publication("c1", id="id-1")
    answer = await bare.clock.run(publish(bare.aws, one))
    assert answer == Receipt(message_id=one.message_id, timestamp=one.timestamp)


async def test_an_answer_of_sns_that_was_lost_is_asked_for_again(bare: AwsHarness) -> None:
    cut(bare.aws.sns, "PublishBatch")
    one = bare.publication("c1")
    assert isinstance(await bare.clock.run(publish(bare.aws, one)), Receipt)
    await bare.settle()
    assert await bare.numbered("c1") == [1]


async def test_a_settled_claim_sends_nothing_again(bare: AwsHarness) -> None:
    sent = tap(bare.aws.sns, "PublishBatch")
    await bare.publish("c1", id="id-1")
    await bare.publish("c1", id="id-1")
    assert len(sent) == 1


async def test_an_id_counts_for_its_window_and_not_longer(bare: AwsHarness) -> None:
    first = await bare.publish("c1", id="id-1")
    bare.clock.advance(WINDOW / 1000 - 0.001)
    assert (await bare.publish("c1", id="id-1")).message_id == first.message_id
    bare.clock.advance(0.001)
    assert (await bare.publish("c1", id="id-1")).message_id != first.message_id


# -- batches ---------------------------------------------------------------------------------------------------------


async def test_no_call_to_sns_holds_two_of_a_chat_nor_more_than_it_takes(bare: AwsHarness) -> None:
    sent = tap(bare.aws.sns, "PublishBatch")
    small = [bare.publication(f"c{index % 15}", index) for index in range(60)]
    large = [bare.publication(f"large-{index}", "x" * 120_000) for index in range(5)]
    plain = [bare.publication(f"c{index}", index, kind="standard") for index in range(3)]
    answers = await bare.engine.bus.publish([*small, *large, *plain])
    assert all(isinstance(answer, Receipt) for answer in answers)
    for call in sent:
        entries = call["PublishBatchRequestEntries"]
        chats = [entry.get("MessageGroupId", entry["Id"]) for entry in entries]
        assert len(set(chats)) == len(chats) <= BATCH
        assert sum(len(entry["Message"].encode()) for entry in entries) < BATCH_BYTES
        assert {entry["MessageAttributes"]["targetChannel"]["StringValue"] for entry in entries} == {"WebSocket"}
    assert len(sent) < 25
    await bare.settle()
    assert await bare.numbered("c3") == [1, 2, 3, 4]


@pytest.fixture
def answering(bare: AwsHarness) -> Iterator[Callable[..., None]]:
    """SNS answers as it is told: for each entry the code with which it failed, None: taken."""
    stubber = Stubber(bare.aws.sns.client)

    def answer(*failures: str | None) -> None:
        stubber.activate()
        stubber.add_response(
            "publish_batch",
            {
                "Successful": [
                    {"Id": str(index), "MessageId": "x"} for index, code in enumerate(failures) if code is None
                ],
                "Failed": [
                    {"Id": str(index), "Code": code, "SenderFault": False}
                    for index, code in enumerate(failures)
                    if code is not None
                ],
            },
        )

    yield answer
    stubber.deactivate()


async def test_an_entry_that_failed_fails_alone(bare: AwsHarness, answering: Callable[..., None]) -> None:
    answering(None, "InvalidParameter")
    batch = [bare.publication("c1"), bare.publication("c2")]
    assert codes(await bare.engine.bus.publish(batch)) == ["accepted", "unavailable"]


async def test_after_an_entry_that_failed_its_chat_takes_no_further_part(
    bare: AwsHarness, answering: Callable[..., None]
) -> None:
    sent = tap(bare.aws.sns, "PublishBatch")
    answering("InvalidParameter")
    batch = [bare.publication("c1", index) for index in range(3)]
    answers = await bare.engine.bus.publish(batch, chained=True)
    assert codes(answers) == ["unavailable", "after_refused", "after_refused"]
    assert len(sent) == 1


async def test_an_entry_that_sns_had_no_time_for_is_sent_again(
    bare: AwsHarness, answering: Callable[..., None]
) -> None:
    answering("Throttled")
    answering(None)
    (answer,) = await bare.clock.run(bare.engine.bus.publish([bare.publication("c1")]))
    assert isinstance(answer, Receipt)


async def test_near_the_end_of_its_time_a_function_refuses_what_it_has_not_sent(bare: AwsHarness) -> None:
    sent = tap(bare.aws.sns, "PublishBatch")
    bare.aws.sns.client.meta.events.register("after-call.sns.PublishBatch", lambda **_: bare.clock.advance(1.0))
    batch = [bare.publication("c1", index) for index in range(200)]
    with until(bare.clock.monotonic() + 10.0):
        answers = await bare.engine.bus.publish(batch)
    accepted = codes(answers).count("accepted")
    assert len(sent) == accepted == 10 - MARGIN
    assert codes(answers)[accepted:] == ["rate_limited"] * (200 - accepted)
    assert all(answer.retry_after for answer in answers if isinstance(answer, Refusal))
    await bare.settle()
    assert await bare.numbered("c1") == list(range(1, accepted + 1))


# -- definite and unknown --------------------------------------------------------------------------------------------


@pytest.fixture
def failing(bare: AwsHarness) -> Iterator[Callable[[str], None]]:
    """SNS fails with this code, again and again."""
    stubber = Stubber(bare.aws.sns.client)

    def fail(code: str) -> None:
        stubber.activate()
        for _ in range(200):
            stubber.add_client_error("publish_batch", code)

    yield fail
    stubber.deactivate()


@pytest.mark.parametrize(
    ("code", "answer"),
    [("Throttling", "rate_limited"), ("InternalError", "unavailable"), ("ServiceUnavailable", "unavailable")],
)
async def test_what_sns_never_took_is_refused_and_what_it_may_have_taken_is_unknown(
    bare: AwsHarness, failing: Callable[[str], None], code: str, answer: str
) -> None:
    failing(code)
    (refusal,) = await bare.clock.run(bare.engine.bus.publish([bare.publication("c1")]))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, bool(refusal.retry_after)) == (answer, True)


async def test_a_repeat_of_what_somebody_else_claimed_is_never_refused_as_if_it_were_not_there(
    bare: AwsHarness, failing: Callable[[str], None]
) -> None:
    with container(bare, "publish.claimed=raise") as dying, pytest.raises(FailpointError):
        await publish(dying, bare.publication("c1", id="id-1"))
    failing("Throttling")
    (refusal,) = await bare.clock.run(bare.engine.bus.publish([bare.publication("c1", id="id-1")]))
    assert codes([refusal]) == ["unavailable"]


async def test_a_claim_that_could_not_be_settled_changes_no_answer(bare: AwsHarness) -> None:
    one = bare.publication("c1", id="id-1")
    with container(bare) as other, Stubber(other.dynamodb.client) as stubber:
        stubber.add_response("put_item", {})
        for _ in range(200):
            stubber.add_client_error("update_item", "ThrottlingException")
        answer = await bare.clock.run(publish(other, one))
    assert answer == Receipt(message_id=one.message_id, timestamp=one.timestamp)


async def test_a_claim_that_could_not_be_made_sends_nothing(bare: AwsHarness) -> None:
    with container(bare) as other, Stubber(other.dynamodb.client) as stubber:
        sent = tap(other.sns, "PublishBatch")
        for _ in range(200):
            stubber.add_client_error("put_item", "ThrottlingException")
        answer = await bare.clock.run(publish(other, bare.publication("c1", id="id-1")))
    assert codes([answer]) == ["unavailable"]
    assert sent == []
