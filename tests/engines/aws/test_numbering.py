"""Numbering on DynamoDB: 1..n whoever dies, repeats, races or is throttled; and what the counters say."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import DAY, Options
from tests.engines.aws.containers import Gate, container, cut, rows_of, stamped
from tocsin.engines.aws.bus_format import message_of
from tocsin.failpoints import FailpointError
from tocsin.message import Message
from tocsin.tables import Head

pytestmark = pytest.mark.slow


def messages(harness: AwsHarness, number: int, chat_id: str = "c1") -> list[Message]:
    """As the queue hands them over."""
    return [message_of(harness.publication(chat_id, index)) for index in range(number)]


async def number(harness: AwsHarness, *those: Message) -> list[int | None]:
    return [message.sequence_number for message in await harness.engine.numbers.number(those)]


async def head(harness: AwsHarness, chat_id: str = "c1") -> Head:
    return (await harness.engine.numbers.heads([chat_id]))[chat_id]


# -- one number for each message -------------------------------------------------------------------------------------


async def test_who_dies_after_the_transaction_finds_the_number_when_he_comes_again(bare: AwsHarness) -> None:
    one, two = messages(bare, 2)
    with container(bare, "number.committed=raise") as dying, pytest.raises(FailpointError):
        await dying.protocols.numbers.number([one])
    assert await number(bare, one, two) == [1, 2]
    assert (await head(bare)).sequence == 2


async def test_a_commit_whose_answer_was_lost_is_found_and_not_made_again(bare: AwsHarness) -> None:
    cut(bare.aws.dynamodb, "TransactWriteItems", times=2)
    assert await bare.clock.run(number(bare, *messages(bare, 3))) == [1, 2, 3]
    assert [row["sequenceNumber"]["N"] for row in rows_of(bare, "c1")] == ["1", "2", "3"]


async def test_what_is_found_below_the_head_says_so_and_what_is_at_the_head_is_as_new(bare: AwsHarness) -> None:
    """Who delivers posts it again only at the head: below it everybody has seen the jump."""
    one, two = messages(bare, 2)
    first = await bare.engine.numbers.number([one, two])
    assert [message.position for message in first] == [1, 2]
    again = await bare.engine.numbers.number([one, two])
    assert [(message.sequence_number, message.position) for message in again] == [(1, 2), (2, 2)]


async def test_whoever_crashes_retries_and_races_the_numbers_are_one_to_n(bare: AwsHarness) -> None:
    """60 messages, 40 % of the tries end after the commit, six workers on one chat, storage racing beside them."""
    random = Random(6)
    those = messages(bare, 60)
    waiting = [(worker, message) for message in those for worker in random.sample(range(6), 2)]
    random.shuffle(waiting)

    async def work(worker: int, engine: Any) -> None:
        for mine, message in waiting:
            if mine == worker:
                for _ in range(10):
                    if random.random() < 0.6:
                        await engine.protocols.numbers.number([message])
                        break
                    with pytest.raises(FailpointError):
                        await dying.protocols.numbers.number([message])

    async def store() -> None:
        for message in random.sample(those, len(those)):
            await bare.engine.messages.store([message])

    with container(bare, "number.committed=raise") as dying, container(bare) as other:
        engines = [bare.aws, other] * 3
        await bare.clock.run(asyncio.gather(store(), *[work(index, engine) for index, engine in enumerate(engines)]))
    assert await bare.numbered("c1") == list(range(1, 61))
    assert len(rows_of(bare, "c1")) == 60
    assert {message.message_id for message in those} == {row["messageId"] for row in await bare.history("c1")}


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
async def test_a_transaction_that_met_another_is_tried_again(bare: AwsHarness, reason: str) -> None:
    """No emulator makes these."""
    with container(bare) as engine, Stubber(engine.dynamodb.client) as stubber:
        stubber.add_response("get_item", {})
        for _ in range(3):
            stubber.add_client_error(
                "transact_write_items",
                "TransactionCanceledException",
                modeled_fields={"CancellationReasons": [{"Code": reason}, {"Code": "None"}]},
            )
        stubber.add_response("transact_write_items", {})
        (numbered,) = await bare.clock.run(engine.protocols.numbers.number(messages(bare, 1)))
        stubber.assert_no_pending_responses()
    assert numbered.sequence_number == 1


async def test_a_counter_that_has_moved_is_taken_from_the_failure(bare: AwsHarness) -> None:
    with container(bare) as engine, Stubber(engine.dynamodb.client) as stubber:
        moved = {"scope": {"S": "c1"}, "sequence": {"N": "41"}, "lastExpiry": {"N": "1"}, "since": {"N": "1"}}
        stubber.add_response("get_item", {})
        stubber.add_client_error(
            "transact_write_items",
            "TransactionCanceledException",
            modeled_fields={
                "CancellationReasons": [{"Code": "None"}, {"Code": "ConditionalCheckFailed", "Item": moved}]
            },
        )
        stubber.add_response("transact_write_items", {})
        (numbered,) = await bare.clock.run(engine.protocols.numbers.number(messages(bare, 1)))
        stubber.assert_no_pending_responses()
    assert numbered.sequence_number == 42


async def test_a_transaction_that_is_wrong_is_a_defect_and_shows(bare: AwsHarness) -> None:
    with container(bare) as engine, Stubber(engine.dynamodb.client) as stubber:
        stubber.add_response("get_item", {})
        stubber.add_client_error(
            "transact_write_items",
            "TransactionCanceledException",
            modeled_fields={"CancellationReasons": [{"Code": "ItemCollectionSizeLimitExceeded"}, {"Code": "None"}]},
        )
        with pytest.raises(ClientError):
            await engine.protocols.numbers.number(messages(bare, 1))


@pytest.mark.parametrize("storage_first", [True, False])
async def test_storing_and_numbering_in_either_order_make_the_same_row(bare: AwsHarness, storage_first: bool) -> None:
    (one,) = messages(bare, 1)
    if storage_first:
        await bare.engine.messages.store([one])
    await number(bare, one)
    await bare.engine.messages.store([one])
    await number(bare, one)
    (row,) = rows_of(bare, "c1")
    assert row == {
        "chatId": {"S": "c1"},
        "timestamp": {"S": f"2027-01-15T08:00:00.000Z#{one.message_id}"},
        "messageType": {"S": "fifo"},
        "targetChannel": {"S": "WebSocket"},
        "senderId": {"S": "alice"},
        "payload": {"S": '{"chatId":"c1","eventType":"chat","content":0}'},
        "numbered": {"BOOL": True},
        "sequenceNumber": {"N": "1"},
        "ttl": {"N": str((one.timestamp + 30 * DAY) // 1000)},
    }


async def test_what_is_stored_after_it_was_numbered_expires_when_its_number_does(bare: AwsHarness) -> None:
    """Its publisher's clock is an hour behind: by itself it would go before the number below it."""
    now = bare.clock.now()
    first, behind = [message_of(stamped(bare.publication("c1", at), at)) for at in (now, now - 3_600_000)]
    await number(bare, first, behind)
    await bare.engine.messages.store([first, behind])
    assert {row["ttl"]["N"] for row in rows_of(bare, "c1")} == {str((now + 30 * DAY) // 1000)}


async def test_what_is_not_numbered_draws_none(bare: AwsHarness) -> None:
    plain = message_of(bare.publication("c1", kind="standard"))
    other = message_of(bare.publication("c1", channel="email"))
    assert await number(bare, plain, *messages(bare, 1), other) == [None, 1, None]
    await bare.engine.messages.store([plain, other])
    assert ["sequenceNumber" in row for row in rows_of(bare, "c1")].count(True) == 1


# -- expiry ascends with the number ----------------------------------------------------------------------------------


async def test_a_publisher_whose_clock_is_behind_opens_no_hole_when_messages_expire(stand: AwsHarness) -> None:
    await stand.start(Options(retention=10 * DAY), consumers={})
    now = stand.clock.now()
    clocks = (now, now - 3_600_000, now - 60_000, now + 60_000)
    those = [message_of(stamped(stand.publication("c1", at), at)) for at in clocks]
    await number(stand, *those)
    by_number = sorted(rows_of(stand, "c1"), key=lambda row: int(row["sequenceNumber"]["N"]))
    expiries = [int(row["ttl"]["N"]) for row in by_number]
    assert expiries == sorted(expiries)
    assert expiries[0] == (now + 10 * DAY) // 1000
    assert expiries[-1] == (now + 10 * DAY) // 1000 + 60


# -- the oldest number -----------------------------------------------------------------------------------------------


async def chat_of_days(stand: AwsHarness, days: int, *, each: int = 1) -> None:
    """A chat that keeps messages for ten days, with so many a day."""
    await stand.start(Options(retention=10 * DAY), consumers={})
    for _ in range(days):
        await number(stand, *messages(stand, each))
        stand.clock.advance(86_400)


def delete(stand: AwsHarness, *numbers: int) -> None:
    """As DynamoDB does some time after a row's ttl, in no order."""
    for row in rows_of(stand, "c1"):
        if int(row["sequenceNumber"]["N"]) in numbers:
            stand.stage.services.dynamodb.delete_item(
                TableName=stand.stage.tables["MessageStorageTable"],
                Key={"chatId": row["chatId"], "timestamp": row["timestamp"]},
            )


@pytest.mark.parametrize("gone", [(), (1,), (2, 3), (1, 2, 3, 4, 5, 6), (3, 6), (6,)])
async def test_the_oldest_is_found_whatever_dynamodb_has_deleted(stand: AwsHarness, gone: Sequence[int]) -> None:
    await chat_of_days(stand, 6, each=2)
    stand.clock.advance(7 * 86_400 - 1)  # days 1 to 3 have expired
    delete(stand, *gone)
    for _ in range(2):
        assert await head(stand) == Head(sequence=12, oldest=7, epoch=(await head(stand)).epoch)
        assert await stand.numbered("c1") == [7, 8, 9, 10, 11, 12]


async def test_the_oldest_is_right_after_every_day_of_a_long_life(stand: AwsHarness) -> None:
    await chat_of_days(stand, 1, each=3)
    found = []
    for day in range(2, 30):
        await number(stand, *messages(stand, 3))
        found.append((await head(stand)).oldest)
        delete(stand, *range(1, found[-1] - 2))
        stand.clock.advance(86_400)
        assert found[-1] == max(1, 3 * (day - 10) + 1)
    assert found == sorted(found)


async def test_a_chat_that_slept_until_all_had_expired_begins_behind_it(stand: AwsHarness) -> None:
    """Nobody has asked for the head meanwhile, and the index has nothing that says so."""
    await chat_of_days(stand, 1, each=5)
    stand.clock.advance(20 * 86_400)
    delete(stand, 1, 2, 3, 4, 5)
    await number(stand, *messages(stand, 2))
    assert (await head(stand)).oldest == 6
    assert await stand.numbered("c1") == [6, 7]


async def test_new_messages_that_the_index_does_not_have_yet_are_not_taken_for_deleted(stand: AwsHarness) -> None:
    await stand.start(Options(failpoints="index.lag=raise"), consumers={})
    await number(stand, *messages(stand, 3))
    assert (await head(stand)).oldest == 1
    assert await stand.numbered("c1") == [1, 2, 3]


async def test_two_who_raise_the_oldest_at_once_leave_the_higher_one(stand: AwsHarness) -> None:
    await chat_of_days(stand, 6)
    stand.clock.advance(6 * 86_400)
    gate = Gate("index.lag")
    with container(stand, gate) as slow:
        asking = asyncio.ensure_future(slow.protocols.numbers.heads(["c1"]))
        await gate.reached.wait()
        stand.clock.advance(2 * 86_400)
        high = (await head(stand)).oldest
        gate.opened.set()
        assert (await asking)["c1"].oldest == high == 6
    stand.clock.jump(-2 * DAY)
    assert (await head(stand)).oldest == high


async def test_the_oldest_never_falls_even_when_all_had_expired_and_the_clock_is_set_back(stand: AwsHarness) -> None:
    await chat_of_days(stand, 2)
    stand.clock.advance(11 * 86_400)
    assert (await head(stand)).oldest == 3
    stand.clock.jump(-11 * DAY)
    assert (await head(stand)).oldest == 3
    assert await stand.numbered("c1") == []


async def test_asking_for_a_head_again_reads_the_counters_and_nothing_else(bare: AwsHarness) -> None:
    await number(bare, *messages(bare, 5))
    await head(bare)
    asked: list[str] = []
    bare.aws.dynamodb.client.meta.events.register("before-call.dynamodb", lambda model, **_: asked.append(model.name))
    await bare.engine.numbers.heads([f"c{index}" for index in range(40)])
    assert asked == ["BatchGetItem"]
    asked.clear()
    await bare.engine.numbers.heads([f"c{index}" for index in range(120)])
    assert asked == ["BatchGetItem"] * 3


# -- the epoch -------------------------------------------------------------------------------------------------------


async def test_two_who_begin_the_stores_life_at_once_name_it_alike(bare: AwsHarness) -> None:
    with container(bare) as other:
        found = await asyncio.gather(
            *[engine.protocols.numbers.heads(["c1"]) for engine in (bare.aws, other) for _ in range(5)]
        )
    assert len({heads["c1"].epoch for heads in found}) == 1
