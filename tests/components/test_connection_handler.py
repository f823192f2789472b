"""Connection Handler: the frames that a client gets for what it asks, and in which order.

(Replays, resumes and gaps: tests/conformance/test_journeys.py and the models beside it.)
"""

import asyncio

import msgspec
import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import BACK_END, Options, identity, refusal_of
from tocsin.components.connection_handler import ConnectionHandler, ReplayLimits, error_frame
from tocsin.errors import CloseCode, Refusal
from tocsin.topology import WEBSOCKET_FIFO_QUEUE


@pytest.fixture
async def member(harness: EmbeddedHarness) -> EmbeddedHarness:
    """Alice is a member of c1 and c2; c1 has three numbers."""
    for chat in ("c1", "c2"):
        await harness.grant("alice", chat, "member")
    await harness.publish_many("c1", [1, 2, 3])
    return harness


async def test_chats_named_in_the_url_are_answered_in_their_order(member: EmbeddedHarness) -> None:
    client = await member.connect("alice", "c2", "c1", "user:alice")
    epoch = (await member.engine.numbers.heads(["c1"]))["c1"].epoch
    assert client.frames == [
        {
            "type": "subscribed",
            "chatId": chat,
            "headSequence": head,
            "oldestSequence": 1,
            "epoch": epoch,
            "recovered": True,
            "connectionId": client.connection_id,
        }
        for chat, head in (("c2", 0), ("c1", 3), ("user:alice", 0))
    ]


async def test_a_chat_that_was_revoked_since_the_url_was_judged_is_an_error(member: EmbeddedHarness) -> None:
    client = await member.connect("alice", "c1", "secret")
    assert [(frame["type"], frame["chatId"], frame.get("code")) for frame in client.frames] == [
        ("subscribed", "c1", None),
        ("error", "secret", "forbidden"),
    ]


async def test_what_is_numbered_while_one_connects_is_heard_or_stands_below_the_head(member: EmbeddedHarness) -> None:
    async def load() -> None:
        for number in range(20):
            await member.publish("c1", number)

    loading = asyncio.ensure_future(load())
    clients = []
    for _ in range(10):
        clients.append(await member.connect("alice", "c1"))
        await asyncio.sleep(0)
    await member.clock.run(loading)
    await member.settle()
    for client in clients:
        (subscribed,) = client.of_type("subscribed")
        assert member.numbers(client, "c1") == list(range(subscribed["headSequence"] + 1, 24))


async def test_an_answer_repeats_the_requests_id(member: EmbeddedHarness) -> None:
    handler = member.service.connection_handler
    client = await member.connect("alice")
    name = client.connection_id
    await handler.subscribe(name, "c1", last_sequence=None, epoch=None, request_id='with "quotes" & ü')
    await handler.subscribe(name, "c1", last_sequence=None, epoch=None, request_id="again")
    await handler.unsubscribe(name, "c1", "bye")
    await handler.unsubscribe(name, "c1", None)
    assert [(frame["type"], frame.get("requestId")) for frame in client.frames] == [
        ("subscribed", 'with "quotes" & ü'),
        ("subscribed", "again"),
        ("unsubscribed", "bye"),
        ("unsubscribed", None),
    ]


async def test_a_ping_is_answered_with_the_time(member: EmbeddedHarness) -> None:
    client = await member.connect("alice")
    await member.service.connection_handler.ping(client.connection_id, "r1")
    (pong,) = client.frames
    assert (pong["type"], pong["requestId"], pong["connectionId"]) == ("pong", "r1", client.connection_id)
    assert pong["time"] == "2027-01-15T08:00:00.000Z"


async def test_a_subscription_that_is_refused_leaves_nothing_behind(member: EmbeddedHarness) -> None:
    client = await member.connect("alice")
    assert await refusal_of(client.subscribe("secret", last=0)) == "forbidden"
    assert await refusal_of(client.subscribe("secret")) == "forbidden"
    assert client.frames == []
    assert list(await member.engine.connections.audience(["secret"])) == []


async def test_a_replay_that_fails_ends_the_subscription(stand: EmbeddedHarness) -> None:
    await stand.start(Options(failpoints="subscribe.mid_replay=raise@1"))
    await stand.publish_many("c1", [1, 2])
    client = await stand.connect(BACK_END)
    with pytest.raises(Exception, match=r"subscribe\.mid_replay"):
        await client.subscribe("c1", last=0)
    assert list(await stand.engine.connections.audience(["c1"])) == []
    await client.subscribe("c1", last=0)
    assert stand.numbers(client, "c1") == [1, 2]


async def test_a_disconnected_client_is_forgotten(member: EmbeddedHarness) -> None:
    client = await member.connect("alice", "c1")
    await member.service.connection_handler.disconnect(client.connection_id)
    await member.publish("c1", 4)
    await member.settle()
    assert member.numbers(client, "c1") == []
    assert await refusal_of(client.subscribe("c1")) == "gone"


async def test_who_connects_too_often_is_refused(stand: EmbeddedHarness) -> None:
    await stand.start(Options(connections_per_user=1))
    await stand.connect("alice")
    assert await refusal_of(stand.connect("alice")) == "rate_limited"


async def test_only_who_is_due_is_warned_and_closed(harness: EmbeddedHarness) -> None:
    now, leeway = harness.clock.now(), 30_000
    soon = await harness.connect(identity("alice", expires_at=now + 20_000 + leeway))
    later = await harness.connect(identity("bob", expires_at=now + 3_600_000))
    harness.clock.advance(1)
    await harness.service.connection_handler.expire()
    assert soon.frames == [{"type": "tokenExpiring", "expiresIn": 19}]
    await harness.service.connection_handler.expire()
    assert len(soon.frames) == 1
    harness.clock.advance(25)
    await harness.service.connection_handler.expire()
    assert soon.closed is None  # within the leeway
    harness.clock.advance(25)
    await harness.service.connection_handler.expire()
    assert soon.closed is not None
    assert soon.closed[0] == CloseCode.UNAUTHORIZED
    assert (later.frames, later.closed) == ([], None)


def test_an_error_says_where_and_of_which_chat_and_null_where_no_request_was_readable() -> None:
    refusal = Refusal("invalid_argument", "It is wrong.", field="payload.chatId", chat_id="c1")
    assert msgspec.json.decode(error_frame(refusal, "connection-1", None)) == {
        "type": "error",
        "code": "invalid_argument",
        "message": "It is wrong.",
        "connectionId": "connection-1",
        "requestId": None,
        "field": "payload.chatId",
        "chatId": "c1",
    }
    bare = msgspec.json.decode(error_frame(Refusal("forbidden", "No."), "connection-1", "r1"))
    assert set(bare) == {"type", "code", "message", "connectionId", "requestId"}


async def test_a_replay_of_many_slices_is_whole_while_delivery_stands_still(member: EmbeddedHarness) -> None:
    gate = asyncio.Event()

    async def hold(messages: object) -> None:
        await gate.wait()

    member.meddle(WEBSOCKET_FIFO_QUEUE, hold)
    for _ in range(3):
        await member.publish_many("c1", ["x"] * 300)
    client = await member.connect("alice")
    await client.subscribe("c1", last=0)
    assert member.numbers(client, "c1") == list(range(1, 904))
    gate.set()
    await member.settle()
    assert member.numbers(client, "c1") == list(range(1, 904))


async def test_the_chats_of_a_sync_can_share_the_limits_of_a_replay(member: EmbeddedHarness) -> None:
    await member.publish_many("c2", [1, 2, 3])
    client = await member.connect("alice")
    limits = ReplayLimits(messages=4, shared=True, together=2)
    await handler_of(member, limits).sync(client.connection_id, {"c1": 0, "secret": 0, "c2": 0}, None, "r1")
    assert member.numbers(client, "c1") == [1, 2, 3]
    assert member.numbers(client, "c2") == [3]
    assert [(gap["from"], gap["to"]) for gap in client.of_type("gap", "c2")] == [(1, 2)]
    answers = {frame["chatId"]: frame.get("recovered") for frame in client.of_type("subscribed")}
    assert answers == {"c1": True, "c2": False}
    assert [frame["chatId"] for frame in client.of_type("error")] == ["secret"]
    await member.publish("c2", 4)
    await member.settle()
    assert member.numbers(client, "c2") == [3, 4], "what was left out does not make it miss what follows"


async def test_a_sync_whose_limits_are_spent_says_what_it_leaves_out(member: EmbeddedHarness) -> None:
    client = await member.connect("alice")
    await handler_of(member, ReplayLimits(messages=0, shared=True)).sync(client.connection_id, {"c1": 0}, None, None)
    assert [(frame["type"], frame.get("to"), frame.get("recovered")) for frame in client.frames] == [
        ("gap", 3, None),
        ("subscribed", None, False),
    ]


def handler_of(stand: EmbeddedHarness, limits: ReplayLimits) -> ConnectionHandler:
    engine = stand.engine
    return ConnectionHandler(
        connections=engine.connections,
        clients=engine.clients,
        numbers=engine.numbers,
        messages=engine.messages,
        tokens=stand.service.tokens,
        clock=engine.clock,
        failpoints=engine.failpoints,
        replay=limits,
    )
