"""Subscribing on DynamoDB: whoever writes first, processor or subscriber, each number is replayed, posted or told."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import BACK_END, Client, Options, refusal_of
from tests.engines.aws.containers import container, cut, item_of, meanwhile, subscription_of, tap
from tocsin.clients import Listeners, Subscription
from tocsin.engines.aws.bus_format import message_of
from tocsin.engines.aws.dynamodb_connections import ROUNDS
from tocsin.engines.aws.subscription_rows import LIFE_SECONDS
from tocsin.errors import Refusal
from tocsin.message import Message

pytestmark = pytest.mark.slow


async def begin(harness: AwsHarness, client: Client, chat_id: str = "c1") -> Subscription:
    (subscription,) = await harness.engine.connections.subscribe(client.connection_id, [chat_id])
    assert not isinstance(subscription, Refusal)
    return subscription


async def numbered(harness: AwsHarness, content: object = "hello", chat_id: str = "c1") -> Message:
    """A message that a processor has numbered, and not delivered yet."""
    (message,) = await harness.engine.numbers.number([message_of(harness.publication(chat_id, content))])
    return message


async def audience(harness: AwsHarness) -> dict[str, Listeners]:
    return dict(await harness.engine.connections.audience(["c1"]))


async def deliver(harness: AwsHarness, message: Message) -> None:
    """To who listens now."""
    await harness.engine.clients.deliver(await audience(harness), [message])


# -- a number meets a row that replays -------------------------------------------------------------------------------


async def test_who_replays_is_owed_the_number_and_not_posted_to(harness: AwsHarness) -> None:
    client = await harness.connect(BACK_END)
    subscription = await begin(harness, client)
    await deliver(harness, await numbered(harness))
    assert (client.frames, subscription_of(harness, client)["owed"]) == ([], "1")
    connections = harness.engine.connections
    assert await connections.go_live(subscription, 0) == 1
    assert await connections.go_live(subscription, 1) is None
    assert subscription_of(harness, client)["from"] == "1"
    await deliver(harness, await numbered(harness))
    assert harness.numbers(client, "c1") == [2]


async def test_who_went_live_after_the_audience_was_read_is_posted_to(harness: AwsHarness) -> None:
    client = await harness.connect(BACK_END)
    subscription = await begin(harness, client)
    message = await numbered(harness)
    as_it_was = await audience(harness)
    assert await harness.engine.connections.go_live(subscription, 0) is None
    await harness.engine.clients.deliver(as_it_was, [message])
    assert harness.numbers(client, "c1") == [1]


async def test_who_went_live_with_the_number_in_his_replay_does_not_hear_it_again(harness: AwsHarness) -> None:
    client = await harness.connect(BACK_END)
    subscription = await begin(harness, client)
    message = await numbered(harness)
    as_it_was = await audience(harness)
    assert await harness.engine.connections.go_live(subscription, 1) is None
    await harness.engine.clients.deliver(as_it_was, [message])
    await deliver(harness, message)
    assert client.frames == []


async def test_a_row_that_was_begun_anew_is_owed_nothing_by_an_old_audience(harness: AwsHarness) -> None:
    """Its head is read after the number was committed: the replay has it."""
    client = await harness.connect(BACK_END)
    first = await begin(harness, client)
    message = await numbered(harness)
    as_it_was = await audience(harness)
    second = await begin(harness, client)
    await harness.engine.clients.deliver(as_it_was, [message])
    assert "owed" not in subscription_of(harness, client)
    connections = harness.engine.connections
    assert await connections.go_live(first, 0) is None
    assert not await connections.is_live(client.connection_id, "c1")
    assert await connections.go_live(second, await harness.head("c1")) is None
    assert client.frames == []


@pytest.mark.parametrize("how", ["left", "closed"])
async def test_no_late_write_brings_a_subscription_back_to_life(harness: AwsHarness, how: str) -> None:
    """DynamoDB's update makes a row where there is none."""
    pending, live = await harness.connect(BACK_END), await harness.connect(BACK_END, "c1")
    subscription = await begin(harness, pending)
    as_it_was = await audience(harness)
    connections = harness.engine.connections
    for client in (pending, live):
        if how == "left":
            await connections.leave(client.connection_id, "c1")
        else:
            await connections.close([client.connection_id])
    harness.api.refuse(live.connection_id, 500)
    await harness.engine.clients.deliver(as_it_was, [await numbered(harness)])
    assert await connections.go_live(subscription, 0) is None
    assert [subscription_of(harness, client) for client in (pending, live)] == [{}, {}]


async def test_nothing_changes_a_subscription_that_was_revoked(harness: AwsHarness) -> None:
    await harness.grant("alice", "c1", "member")
    pending, live = await harness.connect("alice"), await harness.connect("alice", "c1")
    subscription = await begin(harness, pending)
    as_it_was = await audience(harness)
    await harness.engine.connections.revoke("alice", "c1")
    before = [subscription_of(harness, client) for client in (pending, live)]
    harness.api.refuse(live.connection_id, 500)
    await harness.engine.clients.deliver(as_it_was, [await numbered(harness)])
    assert await harness.engine.connections.go_live(subscription, 0) is None
    assert [subscription_of(harness, client) for client in (pending, live)] == before
    assert [row["state"] for row in before] == ["revoked", "revoked"]
    assert await audience(harness) == {}


async def test_the_audience_is_read_from_the_table_itself(harness: AwsHarness) -> None:
    """An index lags: who has been told `subscribed` could be missing."""
    asked = tap(harness.aws.dynamodb, "Query")
    await harness.connect(BACK_END, "c1")
    del asked[:]
    await audience(harness)
    await harness.engine.connections.revoke("alice", "c1")
    assert [(call["ConsistentRead"], call.get("IndexName")) for call in asked] == [(True, None)] * 2


async def test_what_has_no_number_is_posted_to_who_replays_at_once(harness: AwsHarness) -> None:
    client = await harness.connect(BACK_END)
    await begin(harness, client)
    await deliver(harness, message_of(harness.publication("c1", kind="standard")))
    assert [frame["type"] for frame in client.frames] == ["message"]
    assert "owed" not in subscription_of(harness, client)


async def test_what_belongs_to_a_connection_ends_with_its_life_though_its_rows_still_lie_there(
    harness: AwsHarness,
) -> None:
    """DynamoDB deletes days late."""
    client = await harness.connect(BACK_END, "c1")
    harness.clock.advance(LIFE_SECONDS)
    assert subscription_of(harness, client)["state"] == "live"
    connections = harness.engine.connections
    assert await audience(harness) == {}
    assert await connections.get(client.connection_id) is None
    assert not await connections.is_live(client.connection_id, "c1")
    assert await connections.revoke("back-end", "c1") == []


# -- a replay that is overtaken --------------------------------------------------------------------------------------


async def overtake(harness: AwsHarness, subscription: Subscription) -> int:
    """Each time that the replay is done with what it owed, one more is numbered. The last that it was told."""
    delivered = 0
    for _ in range(ROUNDS - 1):
        await deliver(harness, await numbered(harness))
        owed = await harness.engine.connections.go_live(subscription, delivered)
        assert owed == delivered + 1
        delivered = owed
    await deliver(harness, await numbered(harness))
    assert await harness.engine.connections.go_live(subscription, delivered) is None
    return delivered


def frames(client: Client) -> list[tuple[str, int, int]]:
    return [
        (frame["type"], frame["from"], frame["to"])
        if frame["type"] == "gap"
        else (frame["type"], frame["sequenceNumber"], frame["sequenceNumber"])
        for frame in client.frames
    ]


async def test_a_replay_that_is_overtaken_again_and_again_goes_live_with_a_gap(harness: AwsHarness) -> None:
    client = await harness.connect(BACK_END)
    last = await overtake(harness, await begin(harness, client))
    await deliver(harness, await numbered(harness))
    assert frames(client) == [("gap", last + 1, last + 1), ("message", last + 2, last + 2)]


async def test_such_a_gap_is_told_by_whoever_posts_next(harness: AwsHarness) -> None:
    """The replaying function may die between the row's change and the post."""
    client = await harness.connect(BACK_END)
    subscription = await begin(harness, client)
    harness.api.refuse(client.connection_id, 500)
    last = await overtake(harness, subscription)
    assert client.frames == []
    await deliver(harness, await numbered(harness))
    assert frames(client) == [("gap", last + 1, last + 1), ("message", last + 2, last + 2)]


# -- one transaction: open, allowed, subscribed ----------------------------------------------------------------------


def drop_role(harness: AwsHarness, user_id: str, chat_id: str) -> Callable[[], object]:
    """A revocation's first step, by another function."""
    return lambda: harness.stage.services.dynamodb.update_item(
        TableName=harness.stage.tables["UserChatPermissions"],
        Key={"userId": {"S": user_id}, "chatId": {"S": chat_id}},
        UpdateExpression="REMOVE #role",
        ExpressionAttributeNames={"#role": "role"},
    )


async def test_a_permission_that_goes_while_one_subscribes_refuses_its_chat_alone(harness: AwsHarness) -> None:
    for chat in ("c1", "c2", "c3"):
        await harness.grant("alice", chat, "member")
    client = await harness.connect("alice")
    meanwhile(harness.aws.dynamodb, "TransactWriteItems", drop_role(harness, "alice", "c2"))
    found = await harness.engine.connections.subscribe(client.connection_id, ["c1", "c2", "c3"])
    assert [one.code if isinstance(one, Refusal) else "subscribed" for one in found] == [
        "subscribed",
        "forbidden",
        "subscribed",
    ]
    assert subscription_of(harness, client, "c2") == {}
    assert item_of(harness, "ConnectionTable", connectionId=client.connection_id)["chatIds"] == ["c1", "c3"]


async def test_who_is_closed_while_he_subscribes_leaves_nothing_behind(harness: AwsHarness) -> None:
    client = await harness.connect(BACK_END, "c1")

    def close() -> None:
        with container(harness) as other:
            asyncio.run(other.protocols.connections.close([client.connection_id]))

    meanwhile(harness.aws.dynamodb, "TransactWriteItems", close)
    (refusal,) = await harness.engine.connections.subscribe(client.connection_id, ["c2"])
    assert isinstance(refusal, Refusal)
    assert refusal.code == "gone"
    assert [subscription_of(harness, client, chat) for chat in ("c1", "c2")] == [{}, {}]


async def test_who_subscribes_while_he_is_closed_leaves_nothing_behind(harness: AwsHarness) -> None:
    """The connection's row goes first."""
    client = await harness.connect(BACK_END, "c1")
    found: list[object] = []

    def subscribe() -> None:
        with container(harness) as other:
            found.extend(asyncio.run(other.protocols.connections.subscribe(client.connection_id, ["c1", "c2"])))

    meanwhile(harness.aws.dynamodb, "BatchWriteItem", subscribe)
    await harness.engine.connections.close([client.connection_id])
    assert [one.code for one in found if isinstance(one, Refusal)] == ["gone", "gone"]
    assert [subscription_of(harness, client, chat) for chat in ("c1", "c2")] == [{}, {}]


async def test_a_sync_subscribes_as_many_chats_at_once_as_a_transaction_holds(harness: AwsHarness) -> None:
    chats = [f"c{number}" for number in range(120)]
    for chat in chats:
        if not chat.endswith("7"):
            await harness.grant("alice", chat, "member")
    client = await harness.connect("alice")
    sent = tap(harness.aws.dynamodb, "TransactWriteItems")
    found = await harness.engine.connections.subscribe(client.connection_id, chats)
    refused = [chat for chat, one in zip(chats, found, strict=True) if isinstance(one, Refusal)]
    assert refused == [chat for chat in chats if chat.endswith("7")]
    assert max(len(call["TransactItems"]) for call in sent) == 99
    assert len(sent) <= 2 * -(-len(chats) // 49)


async def test_two_that_subscribe_at_once_share_the_connections_limit(stand: AwsHarness) -> None:
    await stand.start(Options(chats_per_connection=3))
    client = await stand.connect(BACK_END)
    connections = stand.engine.connections
    both = await asyncio.gather(
        connections.subscribe(client.connection_id, ["c1", "c2"]),
        connections.subscribe(client.connection_id, ["c3", "c4"]),
    )
    refused = [one.code for found in both for one in found if isinstance(one, Refusal)]
    assert refused == ["invalid_argument"]
    assert len(item_of(stand, "ConnectionTable", connectionId=client.connection_id)["chatIds"]) == 3


async def test_whoever_loses_an_answer_finds_his_own_work(harness: AwsHarness) -> None:
    client = await harness.connect(BACK_END)
    connections, clock = harness.engine.connections, harness.clock
    cut(harness.aws.dynamodb, "TransactWriteItems")
    (subscription,) = await clock.run(connections.subscribe(client.connection_id, ["c1"]))
    assert not isinstance(subscription, Refusal)
    cut(harness.aws.dynamodb, "UpdateItem")
    assert await clock.run(connections.go_live(subscription, 0)) is None
    assert await connections.is_live(client.connection_id, "c1")
    cut(harness.aws.dynamodb, "TransactWriteItems")
    await clock.run(connections.leave(client.connection_id, "c1"))
    assert subscription_of(harness, client) == {}
    assert "chatIds" not in item_of(harness, "ConnectionTable", connectionId=client.connection_id)


@pytest.fixture
def cancelling(harness: AwsHarness) -> Iterator[Callable[..., None]]:
    """DynamoDB cancels the transaction for these reasons, and takes it the next time. The rest is as it is."""
    stubbers: list[Stubber] = []

    def cancel(*reasons: str, item: dict[str, Any]) -> None:
        stubber = Stubber(harness.aws.dynamodb.client)
        stubbers.append(stubber)
        stubber.add_response("get_item", {"Item": item})
        fields = {"CancellationReasons": [{"Code": reason} for reason in reasons]}
        stubber.add_client_error("transact_write_items", "TransactionCanceledException", modeled_fields=fields)
        stubber.add_response("transact_write_items", {})
        stubber.activate()

    yield cancel
    for stubber in stubbers:
        stubber.assert_no_pending_responses()
        stubber.deactivate()


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
async def test_a_subscription_that_met_another_transaction_is_tried_again(
    harness: AwsHarness, cancelling: Callable[..., None], reason: str
) -> None:
    client = await harness.connect("alice")
    row = harness.stage.services.dynamodb.get_item(
        TableName=harness.stage.tables["ConnectionTable"], Key={"connectionId": {"S": client.connection_id}}
    )
    cancelling("None", reason, "None", item=row["Item"])
    (found,) = await harness.clock.run(harness.engine.connections.subscribe(client.connection_id, ["c1"]))
    assert not isinstance(found, Refusal)


async def test_who_is_throttled_for_too_long_is_told_to_come_again(harness: AwsHarness) -> None:
    client = await harness.connect("alice")
    with Stubber(harness.aws.dynamodb.client) as stubber:
        for _ in range(200):
            stubber.add_client_error("get_item", "ProvisionedThroughputExceededException")
        subscribing = harness.clock.run(harness.engine.connections.subscribe(client.connection_id, ["c1"]))
        assert await refusal_of(subscribing) == "unavailable"
