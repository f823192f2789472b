"""What the hub keeps of each connection, and for how long."""

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import BACK_END, Client, identity
from tests.manual_clock import turns
from tocsin.clients import Connection
from tocsin.engines.embedded.fan_out import MAX_GATHERED_BYTES
from tocsin.engines.embedded.room import HubConnection
from tocsin.errors import Refusal

MINUTE, HOUR = 60_000, 3_600_000


@pytest.fixture
async def harness(stand: EmbeddedHarness) -> EmbeddedHarness:
    await stand.start()
    return stand


def connection(number: int, expires_at: int) -> Connection:
    return Connection(
        connection_id=f"connection {number}",
        identity=identity("alice", expires_at=expires_at),
        source_ip="192.0.2.1",
        user_agent="suite/1",
        connected_at=0,
        last_active_at=0,
    )


@pytest.fixture
def young() -> Iterator[None]:
    """What is older than the test is not looked at: it is much, and other tests' connections are in it."""
    gc.freeze()
    yield
    gc.unfreeze()


def kept() -> int:
    gc.collect()
    return sum(type(found) is HubConnection for found in gc.get_objects())


def places() -> int:
    """How many times one stands in a set."""
    gc.collect()
    sets = [found for found in gc.get_objects() if type(found) is set]
    return sum(type(one) is HubConnection for found in sets for one in found)


class Writes:
    """How many writes a client's socket had, and how many frames were in each."""

    def __init__(self, client: Client) -> None:
        self.sizes: list[int] = []
        take = client.write

        def write(frames: bytes) -> None:
            before = len(client.frames)
            take(frames)
            self.sizes.append(len(client.frames) - before)

        client.write = write


@pytest.mark.usefixtures("young")
async def test_nothing_is_kept_of_those_who_have_gone_however_long_their_tokens_live(harness: EmbeddedHarness) -> None:
    hub = harness.embedded.hub
    await harness.grant("alice", "c1", "member")
    for number in range(300):
        await hub.open(connection(number, harness.clock.now() + HOUR + number * 1_000))
        await hub.subscribe(f"connection {number}", ["c1"])
        await hub.close([f"connection {number}"])
    assert kept() == 0


@pytest.mark.usefixtures("young")
async def test_refreshing_again_and_again_costs_no_memory(harness: EmbeddedHarness) -> None:
    hub, now = harness.embedded.hub, harness.clock.now()
    await hub.open(connection(1, now + HOUR))
    for number in range(1_000):
        await hub.refresh("connection 1", identity("alice", expires_at=now + HOUR + number % 50 * 1_000))
    assert (kept(), places()) == (1, 1)
    assert [one.connection_id for one in await hub.expiring(now + 3 * HOUR)] == ["connection 1"]


async def test_members_hear_of_a_burst_in_one_write_each(harness: EmbeddedHarness) -> None:
    clients = [await harness.connect(BACK_END, "c1") for _ in range(3)]
    writes = [Writes(client) for client in clients]
    for number in range(5):
        await harness.publish("c1", number)
        await harness.processed()
    await harness.settle()
    assert [one.sizes for one in writes] == [[1, 4]] * 3


async def test_different_rooms_do_not_wait_for_each_other(harness: EmbeddedHarness) -> None:
    client = await harness.connect(BACK_END, "c1", "c2", "c3")
    writes = Writes(client)
    for chat in ("c1", "c2", "c3"):
        await harness.publish(chat)
        await harness.processed()
    assert writes.sizes == [1, 1, 1]


async def test_a_room_that_has_gathered_much_is_written_before_its_time(harness: EmbeddedHarness) -> None:
    client = await harness.connect(BACK_END, "c1")
    writes = Writes(client)
    for _ in range(5):
        await harness.publish("c1", "x" * (MAX_GATHERED_BYTES // 2))
        await harness.processed()
    assert writes.sizes == [1, 2, 2]


async def test_when_sending_takes_long_rooms_gather_longer_up_to_a_bound(harness: EmbeddedHarness) -> None:
    client = await harness.connect(BACK_END, "c1")
    take = client.write

    def slowly(frames: bytes) -> None:
        take(frames)
        harness.clock.advance(0.2)

    client.write = slowly
    await harness.publish("c1", 1)
    await harness.processed()
    await turns()
    client.write = take
    writes = Writes(client)
    await harness.publish("c1", 2)
    await harness.processed()
    for _ in range(4):
        harness.clock.advance(0.01)
        await turns()
    assert writes.sizes == []
    harness.clock.advance(0.02)
    await turns()
    assert writes.sizes == [1]


async def test_what_was_gathered_is_written_when_the_service_stops(harness: EmbeddedHarness) -> None:
    client = await harness.connect(BACK_END, "c1")
    for number in range(3):
        await harness.publish("c1", number)
        await harness.processed()
    assert harness.numbers(client, "c1") == [1]
    harness.embedded.hub.flush()
    assert harness.numbers(client, "c1") == [1, 2, 3]


async def test_a_chat_that_a_stranger_asks_for_in_vain_is_not_remembered(harness: EmbeddedHarness) -> None:
    mallory = await harness.connect("mallory")
    chats = harness.embedded.hub.messages._chats
    before = len(chats)
    for number in range(20):
        with pytest.raises(Exception, match="not allowed"):
            await mallory.subscribe(f"guess {number}")
    assert len(chats) == before


async def test_a_permission_that_is_revoked_while_the_chat_is_looked_up_counts_no_more(
    harness: EmbeddedHarness,
) -> None:
    await harness.grant("alice", "c1", "member")
    client = await harness.connect("alice")
    engine, goes_on = harness.engine, threading.Event()
    reading = harness.embedded.hub.messages._reads.run(lambda _: goes_on.wait(10))
    await turns()
    subscribing = asyncio.ensure_future(engine.connections.subscribe(client.connection_id, ["c1"]))
    await turns()
    await engine.permissions.revoke(BACK_END, "alice", "c1", harness.clock.now())
    assert not subscribing.done()
    goes_on.set()
    (refused,) = await subscribing
    assert isinstance(refused, Refusal)
    assert refused.code == "forbidden"
    assert await reading


async def test_what_is_held_back_for_a_subscriber_is_bounded_and_read_from_the_store_instead(
    harness: EmbeddedHarness,
) -> None:
    hub = harness.embedded.hub
    client = await harness.connect(BACK_END)
    (subscription,) = await hub.subscribe(client.connection_id, ["c1"])
    assert not isinstance(subscription, Refusal)
    await harness.publish("c1", 1)
    await harness.settle()
    assert await hub.go_live(subscription, 0) == 1  # from here on it is held back
    await harness.publish_many("c1", ["x" * 100_000] * 12)
    await harness.settle()
    assert await hub.go_live(subscription, 1) == 13
    await harness.publish("c1", "last")
    await harness.settle()
    assert await hub.go_live(subscription, 13) is None
    assert harness.numbers(client, "c1") == [14]


async def test_who_was_told_of_his_tokens_end_before_he_could_hear_is_told_again(harness: EmbeddedHarness) -> None:
    hub, now = harness.embedded.hub, harness.clock.now()
    for number in (1, 2):
        await hub.open(connection(number, now + MINUTE))
    assert len(await hub.expiring(now)) == 2
    hub.attach("connection 1", Client("connection 1", identity("alice"), harness))
    assert [found.connection_id for found in await hub.expiring(now)] == ["connection 1"]
    assert await hub.expiring(now) == []


async def test_whose_token_ended_while_he_was_let_in_is_closed(harness: EmbeddedHarness) -> None:
    hub, late = harness.embedded.hub, Client("connection 1", identity("alice"), harness)
    await hub.open(connection(1, harness.clock.now() + MINUTE))
    await hub.disconnect("connection 1", 4401)
    hub.attach("connection 1", late)
    assert late.closed == (4401, "token expired")
