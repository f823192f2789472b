"""Connections: who is connected, what they may listen to and do, and when their tokens end."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from tests.conformance.harness import BACK_END, Client, Harness, Options, connection, identity, refusal_of
from tocsin.clients import Connections, Subscription
from tocsin.errors import Refusal
from tocsin.message import Message
from tocsin.topology import WEBSOCKET_FIFO_QUEUE

MINUTE = 60_000
LEEWAY = 30_000


async def subscribe(harness: Harness, client: Client, chat_id: str) -> Subscription | str:
    """Registered, not live; or why not."""
    (found,) = await harness.engine.connections.subscribe(client.connection_id, [chat_id])
    return found.code if isinstance(found, Refusal) else found


def codes(found: Sequence[Subscription | Refusal]) -> list[str]:
    return [one.code if isinstance(one, Refusal) else "subscribed" for one in found]


async def go_live(harness: Harness, subscription: Subscription | str) -> None:
    assert not isinstance(subscription, str)
    head = await harness.head(subscription.chat_id)
    assert await harness.engine.connections.go_live(subscription, head) is None


@pytest.fixture
def connections(harness: Harness) -> Connections:
    return harness.engine.connections


# -- who is connected ------------------------------------------------------------------------------------------------


async def test_an_open_connection_is_found_and_a_closed_one_is_not(harness: Harness, connections: Connections) -> None:
    opened = connection("one", at=harness.clock.now())
    await connections.open(opened)
    found = await connections.get("one")
    assert found is not None
    assert msgspec.structs.replace(found, last_active_at=opened.last_active_at) == opened
    await connections.close(["one", "unknown"])
    assert await connections.get("one") is None
    await connections.close(["one"])


async def test_it_says_when_the_client_was_last_active(harness: Harness, connections: Connections) -> None:
    client = await harness.connect("alice")
    harness.clock.advance(30)
    client.last_active = harness.clock.monotonic()
    active_at = harness.clock.now()
    harness.clock.advance(12)
    found = await connections.get(client.connection_id)
    assert found is not None
    if not harness.holds_sockets:  # then nobody here sees the client's frames
        active_at = found.connected_at
    assert found.last_active_at == pytest.approx(active_at, abs=1_000)


async def test_a_user_has_so_many_connections_and_room_again_when_one_ends(stand: Harness) -> None:
    await stand.start(Options(connections_per_user=2))
    connections = stand.engine.connections
    await connections.open(connection("one"))
    await connections.open(connection("two"))
    if "rates" in stand.engine.strengths:
        assert await refusal_of(connections.open(connection("three"))) == "rate_limited"
        assert await connections.get("three") is None
    await connections.open(connection("bob's", "bob"))
    await connections.close(["one"])
    await connections.open(connection("three"))
    assert await connections.get("three") is not None


async def test_a_refreshed_connection_has_the_new_identity(harness: Harness, connections: Connections) -> None:
    await connections.open(connection("one", identity("alice", expires_at=1_000)))
    await connections.refresh("one", identity("alice", "messages:read", expires_at=2_000))
    found = await connections.get("one")
    assert found is not None
    assert found.identity == identity("alice", "messages:read", expires_at=2_000)
    await connections.refresh("unknown", identity("alice"))


# -- when tokens end -------------------------------------------------------------------------------------------------


async def expiring(harness: Harness, at: int) -> list[str]:
    return [found.connection_id for found in await harness.engine.connections.expiring(at)]


async def test_each_connection_is_named_once_before_its_end_and_at_it(harness: Harness) -> None:
    now, connections = harness.clock.now(), harness.engine.connections
    ends = now + 5 * MINUTE + 20_000 + LEEWAY
    await connections.open(connection("one", identity("alice", expires_at=ends)))
    named = []
    for at in range(now, ends + 3 * MINUTE, harness.asked_each):
        if await expiring(harness, at):
            named.append(at)
            if at >= ends:
                await connections.close(["one"])
    warned, ended = named
    assert 60_000 - harness.asked_each <= ends - LEEWAY - warned <= 120_000
    assert 0 <= ended - ends <= 60_000


async def test_who_is_not_closed_when_his_token_ends_is_not_forgotten(harness: Harness) -> None:
    """Whoever asked may have died behind his question; embedded, the connection dies with him."""
    ends = harness.clock.now() + 2 * MINUTE
    await harness.engine.connections.open(connection("one", identity("alice", expires_at=ends)))
    named = [await expiring(harness, at) for at in (ends, ends + MINUTE)]
    assert named[0] == ["one"]
    if not harness.holds_sockets:
        assert named[1] == ["one"]


async def test_who_has_less_than_a_minute_left_is_named_at_once(harness: Harness) -> None:
    now = harness.clock.now()
    await harness.engine.connections.open(connection("one", identity("alice", expires_at=now + LEEWAY + 20_000)))
    assert await expiring(harness, now + 1) == ["one"]
    assert await expiring(harness, now + 1_001) == []


async def test_a_new_token_puts_both_off(harness: Harness) -> None:
    now = harness.clock.now()
    connections = harness.engine.connections
    await connections.open(connection("one", identity("alice", expires_at=now + 2 * MINUTE)))
    assert await expiring(harness, now + MINUTE) == ["one"]
    await connections.refresh("one", identity("alice", expires_at=now + 10 * MINUTE))
    assert [await expiring(harness, now + minute * MINUTE) for minute in range(2, 8)] == [[]] * 6
    assert await expiring(harness, now + 9 * MINUTE) == ["one"]
    assert await expiring(harness, now + 11 * MINUTE) == ["one"]


async def test_a_token_that_ends_sooner_brings_both_forward(harness: Harness) -> None:
    now = harness.clock.now()
    connections = harness.engine.connections
    await connections.open(connection("one", identity("alice", expires_at=now + 60 * MINUTE)))
    await connections.refresh("one", identity("alice", expires_at=now + 2 * MINUTE))
    assert await expiring(harness, now + MINUTE) == ["one"]
    assert await expiring(harness, now + 3 * MINUTE) == ["one"]
    await connections.close(["one"])
    assert await expiring(harness, now + 90 * MINUTE) == []


async def test_who_has_gone_is_not_named(harness: Harness) -> None:
    now = harness.clock.now()
    connections = harness.engine.connections
    for name in ("one", "two"):
        await connections.open(connection(name, identity("alice", expires_at=now + 2 * MINUTE)))
    await connections.close(["one"])
    assert await expiring(harness, now + MINUTE) == ["two"]
    await connections.close(["two"])
    assert await expiring(harness, now + 5 * MINUTE) == []


# -- subscriptions ---------------------------------------------------------------------------------------------------


async def test_who_may_read_may_subscribe_and_nobody_else(harness: Harness) -> None:
    await harness.grant("alice", "c1", "reader")
    members = await harness.connect("alice")
    found = await harness.engine.connections.subscribe(members.connection_id, ["c1", "c2", "user:alice", "user:bob"])
    assert codes(found) == ["subscribed", "forbidden", "subscribed", "forbidden"]
    reader = await harness.connect(identity("auditor", "messages:read"))
    assert codes(await harness.engine.connections.subscribe(reader.connection_id, ["c1", "c9"])) == ["subscribed"] * 2


async def test_a_ticket_limits_what_may_be_subscribed_to(harness: Harness) -> None:
    for chat in ("c1", "c2"):
        await harness.grant("alice", chat, "member")
    client = await harness.connect(identity("alice", chat_ids=["c1"]))
    found = await harness.engine.connections.subscribe(client.connection_id, ["c1", "c2", "user:alice"])
    assert codes(found) == ["subscribed", "forbidden", "forbidden"]


async def test_a_permission_counts_from_its_grant_to_its_revocation(harness: Harness) -> None:
    client = await harness.connect("alice")
    assert await subscribe(harness, client, "c1") == "forbidden"
    await harness.grant("alice", "c1", "reader")
    await go_live(harness, await subscribe(harness, client, "c1"))
    await harness.engine.permissions.revoke(BACK_END, "alice", "c1", harness.clock.now())
    assert await subscribe(harness, client, "c1") == "forbidden"


async def test_a_connection_listens_to_so_many_chats(stand: Harness) -> None:
    await stand.start(Options(chats_per_connection=2))
    client = await stand.connect(identity("auditor", "messages:read"))
    connections = stand.engine.connections
    assert codes(await connections.subscribe(client.connection_id, ["c1", "c2", "c3"])) == [
        "subscribed",
        "subscribed",
        "invalid_argument",
    ]
    assert codes(await connections.subscribe(client.connection_id, ["c1"])) == ["subscribed"]
    assert await connections.leave(client.connection_id, "c1")
    assert codes(await connections.subscribe(client.connection_id, ["c3"])) == ["subscribed"]


async def test_a_connection_that_is_gone_subscribes_to_nothing(harness: Harness, connections: Connections) -> None:
    await harness.grant("alice", "c1", "member")
    assert codes(await connections.subscribe("unknown", ["c1", "c2"])) == ["gone", "gone"]
    client = await harness.connect("alice", "c1")
    await connections.close([client.connection_id])
    assert codes(await connections.subscribe(client.connection_id, ["c1"])) == ["gone"]
    assert not await connections.leave(client.connection_id, "c1")
    assert list(await connections.audience(["c1"])) == []


async def test_a_subscription_is_registered_then_live_then_ended(harness: Harness, connections: Connections) -> None:
    await harness.grant("alice", "c1", "member")
    client = await harness.connect("alice")
    subscription = await subscribe(harness, client, "c1")
    assert not isinstance(subscription, str)
    assert (subscription.connection_id, subscription.chat_id) == (client.connection_id, "c1")
    assert await connections.stands(subscription)
    assert not await connections.is_live(client.connection_id, "c1")
    await go_live(harness, subscription)
    assert await connections.is_live(client.connection_id, "c1")
    assert await connections.leave(client.connection_id, "c1")
    assert not await connections.is_live(client.connection_id, "c1")
    assert not await connections.leave(client.connection_id, "c1")


async def test_subscribing_again_begins_anew_and_ends_the_first(harness: Harness, connections: Connections) -> None:
    await harness.grant("alice", "c1", "member")
    client = await harness.connect("alice")
    first = await subscribe(harness, client, "c1")
    second = await subscribe(harness, client, "c1")
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert not await connections.stands(first)
    assert await connections.stands(second)
    assert await connections.go_live(first, 0) is None
    assert not await connections.is_live(client.connection_id, "c1")
    await go_live(harness, second)
    assert await connections.is_live(client.connection_id, "c1")


async def test_what_was_numbered_while_a_replay_went_on_is_owed(harness: Harness, connections: Connections) -> None:
    client = await harness.member("alice", "c1")
    await harness.publish_many("c1", [1, 2])
    await harness.settle()
    subscription = await subscribe(harness, client, "c1")
    assert not isinstance(subscription, str)
    await harness.publish_many("c1", [3, 4, 5])
    await harness.settle()
    owed = await connections.go_live(subscription, 2)
    assert owed == 5
    assert not await connections.is_live(client.connection_id, "c1")
    await harness.publish("c1", 6)
    await harness.settle()
    replayed = owed
    while (owed := await connections.go_live(subscription, replayed)) is not None:
        replayed = owed
    await harness.publish("c1", 7)
    await harness.settle()
    assert harness.numbers(client, "c1") == [1, 2, *range(replayed + 1, 8)]


async def test_a_replay_that_ran_ahead_of_delivery_is_not_repeated(harness: Harness, connections: Connections) -> None:
    await harness.member("bob", "c1")
    client = await harness.member("alice", "c1")
    await harness.publish("c1", 1)
    await harness.settle()
    subscription = await subscribe(harness, client, "c1")
    assert not isinstance(subscription, str)
    numbered, delivers = asyncio.Event(), asyncio.Event()

    async def wait(messages: Sequence[Message]) -> None:
        numbered.set()
        await delivers.wait()

    harness.meddle(WEBSOCKET_FIFO_QUEUE, wait)
    await harness.publish_many("c1", [2, 3])
    await harness.clock.run(numbered.wait())
    head = await harness.head("c1")
    assert head >= 2
    assert await connections.go_live(subscription, head) is None
    delivers.set()
    await harness.publish("c1", 4)
    await harness.settle()
    assert harness.numbers(client, "c1") == [1, *range(head + 1, 5)]


async def test_a_revocation_ends_the_subscriptions_of_one_user_to_one_chat(
    harness: Harness, connections: Connections
) -> None:
    one = await harness.member("alice", "c1")
    two = await harness.connect("alice", "c1")
    closed = await harness.connect("alice", "c1")
    await harness.connect("alice")
    bob = await harness.member("bob", "c1")
    elsewhere = await harness.member("alice", "c2")
    await connections.close([closed.connection_id])
    assert await connections.revoke("nobody", "c1") == []
    assert sorted(await connections.revoke("alice", "c1")) == sorted([one.connection_id, two.connection_id])
    listens = [
        await connections.is_live(client.connection_id, chat)
        for client, chat in ((one, "c1"), (two, "c1"), (bob, "c1"), (elsewhere, "c2"))
    ]
    assert listens == [False, False, True, True]
    assert not await connections.leave(one.connection_id, "c1")
    assert codes(await connections.subscribe(two.connection_id, ["c1"])) == ["subscribed"]


async def test_a_revocation_that_is_repeated_names_again_who_may_not_have_been_told(
    harness: Harness, connections: Connections
) -> None:
    client = await harness.member("alice", "c1")
    assert await connections.revoke("alice", "c1") == [client.connection_id]
    again = await connections.revoke("alice", "c1")
    assert again == ([] if harness.holds_sockets else [client.connection_id])


async def test_the_audience_leaves_out_chats_that_nobody_hears(harness: Harness, connections: Connections) -> None:
    client = await harness.member("alice", "c1")
    assert list(await connections.audience(["c1", "c2", "c3"])) == ["c1"]
    assert list(await connections.audience([])) == []
    await connections.leave(client.connection_id, "c1")
    assert list(await connections.audience(["c1"])) == []


async def test_who_left_one_chat_still_hears_the_others(harness: Harness, connections: Connections) -> None:
    for chat in ("c1", "c2", "c3"):
        await harness.grant("alice", chat, "member")
    client = await harness.connect("alice", "c1", "c2", "c3")
    await connections.leave(client.connection_id, "c2")
    for chat in ("c1", "c2", "c3"):
        await harness.publish(chat)
    await harness.settle()
    assert [len(harness.heard(client, chat)) for chat in ("c1", "c2", "c3")] == [1, 0, 1]
