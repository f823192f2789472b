"""Ends of tokens on DynamoDB: the rows by the minute say where to look, the connection's own row decides."""

import asyncio

import pytest

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import Client, connection, identity
from tests.engines.aws.containers import container, item_of
from tocsin.clients import LEEWAY_MILLISECONDS
from tocsin.engines.aws.subscription_rows import LIFE_SECONDS

pytestmark = pytest.mark.slow
MINUTE = 60_000


def buckets(harness: AwsHarness) -> list[str]:
    items = harness.stage.services.dynamodb.scan(TableName=harness.stage.tables["SubscriptionTable"])["Items"]
    return [item["chatId"]["S"] for item in items if item["chatId"]["S"].startswith("#expires#")]


async def connect(harness: AwsHarness, minutes: float) -> Client:
    """With a token that is good for so long, leeway included."""
    ends = harness.clock.now() + round(minutes * MINUTE)
    return await harness.connect(identity("alice", expires_at=ends))


async def job(harness: AwsHarness) -> None:
    """A minute later."""
    harness.clock.advance(60)
    await harness.clock.run(harness.minute())


@pytest.mark.parametrize("seconds", [0, 17, 59])
async def test_whenever_in_a_minute_the_job_comes_it_warns_and_closes_in_time(bare: AwsHarness, seconds: int) -> None:
    connections, began = bare.engine.connections, bare.clock.now()
    bare.clock.advance(seconds)
    for ends in range(began + 6 * MINUTE, began + 7 * MINUTE, 7_000):
        await connections.open(connection(f"ends at {ends}", identity("alice", expires_at=ends), at=began))
    warned: dict[str, int] = {}
    closed: dict[str, int] = {}
    while len(closed) < 9:
        bare.clock.advance(60)
        now = bare.clock.now()
        for found in await connections.expiring(now):
            is_over = found.identity.expires_at <= now
            (closed if is_over else warned)[found.connection_id] = found.identity.expires_at - now
            if is_over:
                await connections.close([found.connection_id])
    assert all(60_000 < left - LEEWAY_MILLISECONDS <= 120_000 for left in warned.values())
    assert all(-60_000 < left <= 0 for left in closed.values())
    assert len(warned) == 9


async def test_many_whose_tokens_end_together_are_told_and_closed_together(harness: AwsHarness) -> None:
    clients = [await connect(harness, 3) for _ in range(40)]
    assert len(set(buckets(harness))) > 4
    for _ in range(3):
        await job(harness)
    assert [len(client.of_type("tokenExpiring")) for client in clients] == [1] * 40
    assert all(client.closed is not None for client in clients)
    assert [item_of(harness, "ConnectionTable", connectionId=client.connection_id) for client in clients] == [{}] * 40


async def test_one_that_cannot_be_told_holds_up_nobody_and_is_closed_all_the_same(harness: AwsHarness) -> None:
    clients = [await connect(harness, 2) for _ in range(5)]
    harness.api.refuse(clients[0].connection_id, 500, 500)
    await job(harness)
    assert [len(client.of_type("tokenExpiring")) for client in clients] == [0, 1, 1, 1, 1]
    assert clients[0].closed is not None


async def test_a_row_by_the_minute_that_means_nothing_any_more_does_no_harm(harness: AwsHarness) -> None:
    """A token was renewed; another connection has ended."""
    renewed, ended = await connect(harness, 2), await connect(harness, 2)
    later = harness.clock.now() + 30 * MINUTE
    await harness.engine.connections.refresh(renewed.connection_id, identity("alice", expires_at=later))
    await harness.lose(ended)
    for _ in range(4):
        await job(harness)
    assert (renewed.frames, renewed.closed, ended.closed) == ([], None, None)
    assert await harness.engine.connections.get(renewed.connection_id) is not None


async def test_of_two_jobs_at_once_one_warns(bare: AwsHarness) -> None:
    now = bare.clock.now()
    await bare.engine.connections.open(connection("one", identity("alice", expires_at=now + 2 * MINUTE)))
    with container(bare) as other:
        both = await asyncio.gather(bare.engine.connections.expiring(now), other.protocols.connections.expiring(now))
    assert sorted(len(found) for found in both) == [0, 1]


@pytest.mark.parametrize("minutes", [3, 11, 115])
async def test_a_job_that_did_not_come_is_made_up_for_by_the_next(harness: AwsHarness, minutes: int) -> None:
    await job(harness)
    client = await connect(harness, 1)
    harness.clock.advance(minutes * 60)
    await harness.clock.run(harness.minute())
    assert client.closed is not None


async def test_so_is_one_that_came_and_failed_the_first_ones_too(bare: AwsHarness) -> None:
    connections = bare.engine.connections

    async def fail() -> None:
        await connections.expiring(bare.clock.now())
        raise RuntimeError("the function ends here")

    await connections.open(connection("one", identity("alice", expires_at=bare.clock.now() + MINUTE)))
    for _ in range(11):
        with pytest.raises(RuntimeError):
            await bare.aws.each_minute(fail)
        bare.clock.advance(60)
    assert [found.connection_id for found in await connections.expiring(bare.clock.now())] == ["one"]


async def test_a_token_that_outlives_its_connection_is_not_waited_for(harness: AwsHarness) -> None:
    await connect(harness, LIFE_SECONDS / 60 + 1)
    assert buckets(harness) == []
