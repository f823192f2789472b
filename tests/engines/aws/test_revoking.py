"""Revoking on DynamoDB: the fence holds, and each connection is told, whoever dies, replays or delivers meanwhile."""

import asyncio

import pytest

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import BACK_END, Client, refusal_of
from tests.engines.aws.containers import Gate, container, subscription_of
from tocsin.engines.aws.bus_format import message_of
from tocsin.engines.aws.engine import AwsEngine
from tocsin.failpoints import FailpointError
from tocsin.message import Message
from tocsin.service import Service

pytestmark = pytest.mark.slow


async def revoke(harness: AwsHarness, service: Service | None = None) -> int:
    handler = (service or harness.service).chat_permission
    return await harness.clock.run(handler.revoke(BACK_END, "alice", "c1"))


def served(harness: AwsHarness, engine: AwsEngine) -> Service:
    """Another function's components."""
    return Service(engine.protocols, harness.service.tokens)


async def numbered(harness: AwsHarness) -> Message:
    (message,) = await harness.engine.numbers.number([message_of(harness.publication("c1"))])
    return message


def kinds(client: Client) -> list[str | int]:
    return [
        frame["sequenceNumber"] if frame["type"] == "message" else frame["type"]
        for frame in client.frames
        if frame["type"] != "subscribed"
    ]


@pytest.mark.parametrize("failpoint", ["revoke.tombstoned", "revoke.dropped"])
async def test_who_revokes_and_dies_is_repeated_and_each_connection_is_told(
    harness: AwsHarness, failpoint: str
) -> None:
    """The connection lives on: that its subscription has ended must not be forgotten with who ended it."""
    client = await harness.member("alice", "c1")
    with container(harness, f"{failpoint}=raise") as dying, pytest.raises(FailpointError):
        await revoke(harness, served(harness, dying))
    assert kinds(client) == []
    assert await revoke(harness) == 0
    assert kinds(client) == ["revoked"]


async def test_who_dies_before_the_fence_is_written_is_repeated_with_one_that_holds(harness: AwsHarness) -> None:
    client = await harness.member("alice", "c1")
    await harness.publish("c1")
    await harness.settle()

    def die(**_: object) -> None:
        raise RuntimeError("the function ends here")

    with container(harness) as dying:
        dying.api.client.meta.events.register("after-call.apigatewaymanagementapi.PostToConnection", die)
        with pytest.raises(RuntimeError):
            await revoke(harness, served(harness, dying))
    await harness.publish("c1")
    await harness.settle()
    assert await revoke(harness) == 2
    assert kinds(client) == [1, "revoked", "revoked"]


async def test_of_two_revocations_at_once_both_answer_the_fence_that_was_written_first(harness: AwsHarness) -> None:
    await harness.member("alice", "c1")
    gate = Gate("revoke.dropped")
    with container(harness, gate) as slow:
        first = asyncio.ensure_future(served(harness, slow).chat_permission.revoke(BACK_END, "alice", "c1"))
        await gate.reached.wait()
        assert await revoke(harness) == 0
        await numbered(harness)
        gate.opened.set()
        assert await harness.clock.run(first) == 0
    assert await revoke(harness) == 0


async def test_a_revocation_that_is_slow_does_not_end_what_was_granted_and_begun_since(harness: AwsHarness) -> None:
    client = await harness.member("alice", "c1")
    gate = Gate("revoke.dropped")
    with container(harness, gate) as slow:
        first = asyncio.ensure_future(served(harness, slow).chat_permission.revoke(BACK_END, "alice", "c1"))
        await gate.reached.wait()
        await harness.grant("alice", "c1", "reader")
        await client.subscribe("c1", last=0)
        gate.opened.set()
        await harness.clock.run(first)
    assert await harness.engine.connections.is_live(client.connection_id, "c1")
    assert (await harness.engine.permissions.roles([("alice", "c1")])) == ["reader"]


async def test_a_replay_posts_nothing_once_its_row_is_gone(harness: AwsHarness) -> None:
    """It reads the head, then its own row, then it posts: where the row stands the fence is not below the head."""
    await harness.grant("alice", "c1", "member")
    for _ in range(3):
        await numbered(harness)
    client = await harness.connect("alice")
    gate = Gate("subscribe.mid_replay")
    with container(harness, gate) as replaying:
        handler = served(harness, replaying).connection_handler
        subscribing = asyncio.ensure_future(
            handler.subscribe(client.connection_id, "c1", last_sequence=0, epoch=None, request_id=None)
        )
        await gate.reached.wait()
        assert await revoke(harness) == 3
        gate.opened.set()
        await harness.clock.run(subscribing)
    assert kinds(client) == ["revoked"]


async def test_a_delivery_that_was_under_way_brings_nothing_above_the_fence(harness: AwsHarness) -> None:
    """What it brings may follow `revoked`, for as long as a delivery lasts."""
    client = await harness.member("alice", "c1")
    gate = Gate("processor.mid_fanout")
    message = await numbered(harness)
    audience = await harness.engine.connections.audience(["c1"])
    with container(harness, gate) as delivering:
        late = asyncio.ensure_future(delivering.protocols.clients.deliver(audience, [message]))
        await gate.reached.wait()
        fence = await revoke(harness)
        gate.opened.set()
        await harness.clock.run(late)
    await harness.publish("c1")
    await harness.settle()
    assert (fence, kinds(client)) == (1, ["revoked", 1])


async def test_who_does_not_take_that_he_is_revoked_is_closed(impatient: AwsHarness) -> None:
    client = await impatient.member("alice", "c1")
    impatient.api.refuse(client.connection_id, 500, 500)
    assert await revoke(impatient) == 0
    assert (client.closed is not None, kinds(client)) == (True, [])
    assert subscription_of(impatient, client) == {}


async def test_a_revocation_that_could_tell_nobody_is_not_answered_and_tells_them_when_it_is_repeated(
    harness: AwsHarness,
) -> None:
    client = await harness.member("alice", "c1")
    client.stall()
    assert await refusal_of(revoke(harness)) == "unavailable"
    assert await harness.engine.permissions.roles([("alice", "c1")]) == [None]
    client.resume()
    assert await revoke(harness) == 0
    assert kinds(client) == ["revoked"]


async def test_a_grant_while_one_is_subscribed_no_more_begins_with_a_subscription_of_its_own(
    harness: AwsHarness,
) -> None:
    client = await harness.member("alice", "c1")
    await revoke(harness)
    await harness.grant("alice", "c1", "member")
    await harness.publish("c1", 1)
    await harness.settle()
    await client.subscribe("c1", last=1)
    await harness.publish("c1", 2)
    await harness.settle()
    assert kinds(client) == ["revoked", 2]
