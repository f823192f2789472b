"""Delivering through API Gateway: what a post's answer does to its connection, and to nobody else."""

import asyncio
from itertools import count
from typing import Any

import msgspec
import pytest

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import BACK_END, Client, Options
from tests.engines.aws.containers import item_of, subscription_of, tap
from tests.manual_clock import turns
from tocsin.engines.aws.apigateway_clients import FAN_OUT_SECONDS, SEND_SECONDS, YOUNG_MILLISECONDS
from tocsin.engines.aws.apigateway_posts import POST_SECONDS
from tocsin.engines.aws.bus_format import message_of, with_number
from tocsin.engines.aws.calls import Unreachable, until
from tocsin.engines.aws.engine import THREADS
from tocsin.errors import Refusal
from tocsin.message import Message, PublishRequest, check_publish
from tocsin.profiles.aws import LARGEST
from tocsin.topology import WEBSOCKET_FIFO_QUEUE

pytestmark = pytest.mark.slow
#: What a function is given, longer than a delivery may take.
FUNCTION_SECONDS = 45.0


async def listeners(harness: AwsHarness, number: int) -> list[Client]:
    """Connections that are not young any more."""
    clients = [await harness.connect(BACK_END, "c1") for _ in range(number)]
    harness.clock.advance(YOUNG_MILLISECONDS / 1000)
    return clients


async def numbered(harness: AwsHarness, content: object = "hello") -> Message:
    (message,) = await harness.engine.numbers.number([message_of(harness.publication("c1", content))])
    return message


async def deliver(harness: AwsHarness, *messages: Message) -> list[str]:
    """To who listens now; the connections that are gone."""
    audience = await harness.engine.connections.audience(["c1"])
    return list(await harness.clock.run(harness.engine.clients.deliver(audience, messages)))


def kinds(client: Client) -> list[str | int]:
    """What it has been sent since it subscribed: the numbers, and what else there was."""
    return [
        frame["sequenceNumber"] if frame["type"] == "message" else frame["type"]
        for frame in client.frames
        if frame["type"] != "subscribed"
    ]


# -- all at once, each in order --------------------------------------------------------------------------------------


async def test_all_are_posted_to_at_once_and_never_more_than_there_are_threads(impatient: AwsHarness) -> None:
    clients = await listeners(impatient, 3 * THREADS)
    await deliver(impatient, await numbered(impatient))
    assert [kinds(client) for client in clients] == [[1]] * len(clients)
    assert THREADS // 2 <= impatient.api.most_in_flight <= THREADS


async def test_one_connection_is_posted_to_one_by_one_and_in_order(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    messages = [await numbered(harness, index) for index in range(20)]
    send = harness.engine.clients.send
    await asyncio.gather(
        deliver(harness, *messages),
        *[
            send(client.connection_id, [b'{"type":"a","n":%d}' % index for index in (2 * n, 2 * n + 1)])
            for n in range(5)
        ],
    )
    assert harness.api.most_in_flight == 1
    assert harness.numbers(client, "c1") == list(range(1, 21))
    assert [frame["n"] for frame in client.of_type("a")] == list(range(10))


# -- gone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error_type", ["GoneException", "SomethingElse"])
async def test_who_is_gone_is_forgotten_whatever_the_error_is_called(harness: AwsHarness, error_type: str) -> None:
    gone, stays = await listeners(harness, 2)
    harness.api.lose(gone.connection_id)
    harness.api.error_type = error_type
    assert await deliver(harness, await numbered(harness)) == [gone.connection_id]
    assert (kinds(stays), subscription_of(harness, gone)) == ([1], {})
    await harness.publish("c1")
    await harness.settle()
    assert harness.numbers(stays, "c1") == [1, 2]


async def test_a_row_whose_connections_row_has_gone_before_it_goes_with_the_next_post(harness: AwsHarness) -> None:
    """Who closed it died in between: nothing else says any more what it listened to."""
    (gone,) = await listeners(harness, 1)
    harness.api.lose(gone.connection_id)
    harness.stage.services.dynamodb.delete_item(
        TableName=harness.stage.tables["ConnectionTable"], Key={"connectionId": {"S": gone.connection_id}}
    )
    await harness.publish("c1")
    await harness.settle()
    assert subscription_of(harness, gone) == {}


async def test_a_connection_whose_upgrade_has_not_ended_is_not_forgotten(harness: AwsHarness) -> None:
    """Its row is written by `$connect`; API Gateway says Gone until that has returned."""
    client = await harness.connect(BACK_END, "c1")
    harness.api.lose(client.connection_id)
    await harness.publish("c1", 1)
    await harness.settle()
    assert subscription_of(harness, client)["state"] == "live"
    harness.api.attach(client)
    await harness.publish("c1", 2)
    await harness.settle()
    assert kinds(client) == ["gap", 2]


async def test_young_is_who_connected_a_minute_ago_and_no_longer(harness: AwsHarness) -> None:
    """By `connectedAt`: a subscription that was begun just now makes nobody young."""
    client = await harness.connect(BACK_END)
    harness.api.lose(client.connection_id)
    harness.clock.advance(YOUNG_MILLISECONDS / 1000 - 1)
    await harness.service.connection_handler.subscribe_now(client.connection_id, ["c1"])
    assert await deliver(harness, await numbered(harness)) == []
    harness.clock.advance(1)
    await harness.service.connection_handler.subscribe_now(client.connection_id, ["c1"])
    assert await deliver(harness, await numbered(harness)) == [client.connection_id]


# -- slow, dead, busy ------------------------------------------------------------------------------------------------


async def test_a_connection_that_hangs_holds_up_its_chat_for_one_post_and_the_others_not_at_all(
    impatient: AwsHarness,
) -> None:
    clients = await listeners(impatient, 5)
    hangs, *others = clients
    impatient.api.stall(hangs.connection_id)
    began = impatient.clock.monotonic()
    assert await deliver(impatient, await numbered(impatient, 1), await numbered(impatient, 2)) == []
    assert impatient.clock.monotonic() - began <= POST_SECONDS
    assert [kinds(client) for client in others] == [[1, 2]] * 4
    row = subscription_of(impatient, hangs)
    assert (row["missedFrom"], row["missedTo"], row["failures"]) == ("1", "2", "1")


async def test_a_post_that_failed_is_told_before_the_next_and_not_repeated(harness: AwsHarness) -> None:
    """Nobody knows whether it got there."""
    (client,) = await listeners(harness, 1)
    harness.api.refuse(client.connection_id, 500)
    await deliver(harness, await numbered(harness))
    assert kinds(client) == []
    await deliver(harness, await numbered(harness))
    assert kinds(client) == ["gap", 2]
    assert "missedFrom" not in subscription_of(harness, client)
    await deliver(harness, await numbered(harness))
    assert kinds(client) == ["gap", 2, 3]


@pytest.mark.parametrize("by", ["the next post", "the minute's job"])
async def test_two_failures_in_a_row_end_the_connection(harness: AwsHarness, by: str) -> None:
    client, stays = await listeners(harness, 2)
    harness.api.refuse(client.connection_id, 500, 500)
    await deliver(harness, await numbered(harness))
    assert client.closed is None
    if by == "the next post":
        assert await deliver(harness, await numbered(harness)) == [client.connection_id]
    else:
        await harness.told()
        assert item_of(harness, "ConnectionTable", connectionId=client.connection_id) == {}
        assert subscription_of(harness, client) == {}
    assert client.closed is not None
    assert stays.closed is None


async def test_a_success_between_two_failures_makes_them_none(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    for _ in range(3):
        harness.api.refuse(client.connection_id, 500)
        await deliver(harness, await numbered(harness))
        await deliver(harness, await numbered(harness))
    assert client.closed is None
    assert kinds(client) == ["gap", 2, "gap", 4, "gap", 6]


async def test_a_connection_that_cannot_even_be_ended_fails_nobody(impatient: AwsHarness) -> None:
    hangs, other = await listeners(impatient, 2)
    impatient.api.stall(hangs.connection_id)
    for number in (1, 2):
        assert await deliver(impatient, await numbered(impatient)) == []
        assert kinds(other) == list(range(1, number + 1))
    assert subscription_of(impatient, hangs)["missedTo"] == "2"


async def test_who_api_gateway_has_no_time_for_is_posted_to_again(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    harness.api.refuse(client.connection_id, 429, 429, 429)
    await deliver(harness, await numbered(harness))
    assert kinds(client) == [1]


async def test_having_been_busy_for_long_ends_no_connection(harness: AwsHarness) -> None:
    """What is throttled is not the connection: all would be ended, and come back at once."""
    (client,) = await listeners(harness, 1)
    client.stall()
    for _ in range(3):
        await deliver(harness, await numbered(harness))
    await harness.told()
    assert client.closed is None
    client.resume()
    await deliver(harness, await numbered(harness))
    assert [(frame["from"], frame["to"]) for frame in client.of_type("gap")] == [(1, 3)]
    assert kinds(client) == ["gap", 4]


async def test_a_delivery_ends_at_its_deadline_and_who_was_not_reached_is_told(impatient: AwsHarness) -> None:
    """There are more dead connections than threads."""
    impatient.post_seconds = 30.0
    await impatient.restart()
    clients = sorted(
        await listeners(impatient, THREADS + 4), key=lambda client: client.connection_id
    )  # as DynamoDB has
    hang, others = clients[:THREADS], clients[THREADS:]
    for client in hang:
        impatient.api.stall(client.connection_id)
    audience = await impatient.engine.connections.audience(["c1"])
    message = await numbered(impatient)
    began = impatient.clock.monotonic()
    with until(began + FUNCTION_SECONDS):
        delivering = asyncio.ensure_future(impatient.engine.clients.deliver(audience, [message]))
    await impatient.api.until_in_flight(THREADS)
    impatient.clock.advance(FAN_OUT_SECONDS)
    await turns()
    assert not delivering.done(), "what is in flight might arrive behind what is posted later"
    for client in hang:
        impatient.api.resume(client.connection_id)
    assert await impatient.clock.run(delivering) == []
    assert impatient.clock.monotonic() - began <= FAN_OUT_SECONDS + 1
    assert [kinds(client) for client in others] == [[]] * len(others)
    await deliver(impatient, await numbered(impatient))
    assert [kinds(client) for client in hang] == [[1, 2]] * len(hang)
    assert [kinds(client) for client in others] == [["gap", 2]] * len(others)


async def test_so_does_what_is_sent_to_one_and_its_sender_is_told(
    harness: AwsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame is taken, and takes its time."""
    (client,) = await listeners(harness, 1)
    take = client.write

    def slowly(frame: bytes) -> None:
        harness.clock.advance(SEND_SECONDS / 2)
        take(frame)

    monkeypatch.setattr(client, "write", slowly)
    with until(harness.clock.monotonic() + FUNCTION_SECONDS), pytest.raises(Unreachable):
        await harness.engine.clients.send(client.connection_id, [b'{"type":"a"}'] * 5)
    assert len(client.of_type("a")) == 2


async def test_a_frame_that_is_too_large_leaves_a_gap_in_its_place(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    await deliver(harness, await numbered(harness, "x" * 131_000), await numbered(harness))
    assert kinds(client) == ["gap", 2]
    assert (client.of_type("gap")[0]["from"], client.closed) == (1, None)
    assert "missedFrom" not in subscription_of(harness, client)


async def test_the_largest_message_that_is_accepted_passes_whatever_its_number(harness: AwsHarness) -> None:
    number = 2**63 - 1

    def delivered(content: str) -> Message:
        return with_number(message_of(harness.publication("c1", content)), number, number)

    def accept(content: str) -> None:
        payload = msgspec.json.encode({"chatId": "c1", "eventType": "chat", "content": content})
        check_publish(PublishRequest(message_type="fifo", payload=msgspec.Raw(payload)), "alice", LARGEST)

    content = "x" * (LARGEST - len(delivered("").frame()))
    accept(content)
    with pytest.raises(Refusal) as refused:
        accept(f"{content}x")
    assert refused.value.code == "message_too_large"
    (client,) = await listeners(harness, 1)
    await deliver(harness, delivered(content))
    assert kinds(client) == [number]
    await deliver(harness, delivered(f"{content}x"))
    assert kinds(client)[1:] == ["gap"]


async def test_that_we_may_not_post_is_nothing_to_be_passed_over(harness: AwsHarness) -> None:
    """A role without the permission: the message is tried again, dies, and an alarm rings."""
    (client,) = await listeners(harness, 1)
    harness.api.refuse(client.connection_id, 403, 403, 403)
    await harness.publish("c1")
    await harness.settle()
    (letter,) = await harness.dead_letters(WEBSOCKET_FIFO_QUEUE)
    assert "403" in letter.reason or "Forbidden" in letter.reason
    assert kinds(client) == ["gap"]


# -- again -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_delivery_that_dies_among_its_posts_is_repeated_to_all(stand: AwsHarness, nth: int) -> None:
    await stand.start(Options(failpoints=f"deliver.mid=raise@{nth}"))
    clients = await listeners(stand, 3)
    for index in range(2):
        await stand.publish("c1", index)
    await stand.settle()
    assert [stand.numbers(client, "c1") for client in clients] == [[1, 2]] * 3
    assert [client.of_type("gap") for client in clients] == [[]] * 3


async def test_a_number_at_the_head_is_posted_again_and_one_below_it_is_not(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    one, two = [message_of(harness.publication("c1", index)) for index in range(2)]
    for those in ([one], [one], [two], [one, two]):
        await deliver(harness, *await harness.engine.numbers.number(those))
    assert kinds(client) == [1, 1, 2, 2]


async def test_what_one_was_marked_to_have_missed_is_not_sent_after_all_by_a_repetition(harness: AwsHarness) -> None:
    client, other = await listeners(harness, 2)
    harness.api.refuse(client.connection_id, 500)
    message = await numbered(harness)
    for _ in range(2):
        await deliver(harness, message)
    await deliver(harness, await numbered(harness))
    assert (kinds(client), kinds(other)) == (["gap", 2], [1, 1, 2])


# -- the minute's job ------------------------------------------------------------------------------------------------


async def nothing() -> None:
    """No token ends."""


def missed_rows(harness: AwsHarness) -> list[str]:
    items = harness.stage.services.dynamodb.scan(TableName=harness.stage.tables["SubscriptionTable"])["Items"]
    return [item["chatId"]["S"] for item in items if item["chatId"]["S"].startswith("#missed#")]


async def test_who_hears_nothing_more_is_told_within_two_minutes_what_he_missed(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    harness.api.refuse(client.connection_id, 500)
    await harness.publish("c1")
    await harness.settle()
    missed_at = harness.clock.now()
    assert len(missed_rows(harness)) == 1
    await client.until(lambda: bool(client.of_type("gap")), step=1)
    assert harness.clock.now() - missed_at <= 120_000
    await harness.told()
    assert (missed_rows(harness), "missedFrom" in subscription_of(harness, client)) == ([], False)
    assert kinds(client) == ["gap"]


@pytest.mark.parametrize("minutes", [5, 11, 115])
async def test_a_job_that_did_not_come_is_made_up_for_by_the_next(harness: AwsHarness, minutes: int) -> None:
    await harness.told()
    (client,) = await listeners(harness, 1)
    harness.api.refuse(client.connection_id, 500)
    await deliver(harness, await numbered(harness))
    harness.clock.advance(minutes * 60)
    await harness.clock.run(harness.minute())
    assert (kinds(client), missed_rows(harness)) == (["gap"], [])


async def test_a_job_that_died_before_it_struck_out_a_gap_tells_it_again(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    harness.api.refuse(client.connection_id, 500)
    await deliver(harness, await numbered(harness))
    harness.clock.advance(60)
    losing = count()

    def lose(params: dict[str, Any], **_: object) -> None:
        if "REMOVE" in params["UpdateExpression"] and next(losing) == 0:
            raise RuntimeError("the function ends here")

    harness.aws.dynamodb.client.meta.events.register("before-parameter-build.dynamodb.UpdateItem", lose)
    with pytest.raises(RuntimeError):
        await harness.clock.run(harness.aws.each_minute(nothing))
    await harness.clock.run(harness.aws.each_minute(nothing))
    assert kinds(client) == ["gap", "gap"]
    assert "missedFrom" not in subscription_of(harness, client)


async def test_a_mark_without_its_minutes_row_is_never_written(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    written = tap(harness.aws.dynamodb, "PutItem")
    harness.api.refuse(client.connection_id, 500)

    def look(**_: object) -> None:
        assert len(missed_rows(harness)) == 1

    harness.aws.dynamodb.client.meta.events.register("before-call.dynamodb.UpdateItem", look)
    await deliver(harness, await numbered(harness))
    marks = [call["Item"]["chatId"]["S"].split("#")[1] for call in written]
    assert [mark for mark in marks if mark != "whole"] == ["missed"]


# -- one connection --------------------------------------------------------------------------------------------------


async def test_an_answer_is_posted_twice_before_its_connection_is_given_up(harness: AwsHarness) -> None:
    one, two = await listeners(harness, 2)
    send = harness.engine.clients.send
    harness.api.refuse(one.connection_id, 500)
    assert await send(one.connection_id, [b'{"type":"x"}'])
    assert kinds(one) == ["x"]
    harness.api.refuse(two.connection_id, 500, 500)
    assert not await send(two.connection_id, [b'{"type":"x"}'])
    assert two.closed is not None
    assert await harness.engine.connections.get(two.connection_id) is None


async def test_the_last_frame_of_a_connection_says_why_it_is_closed(harness: AwsHarness) -> None:
    (client,) = await listeners(harness, 1)
    assert await harness.engine.clients.disconnect(client.connection_id, 4401, "token expired")
    assert client.frames[-1] == {
        "type": "error",
        "code": "token_expired",
        "message": "The connection is closed: token expired.",
        "connectionId": client.connection_id,
        "requestId": None,
        "close": 4401,
    }
    assert harness.api.asked[-2:] == [("POST", client.connection_id), ("DELETE", client.connection_id)]
