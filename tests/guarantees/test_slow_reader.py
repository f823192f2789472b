"""Who does not read costs bounded memory and hurts nobody; a gap tells exactly what he missed; then he is closed."""

import asyncio
import json

import pytest

from tests.guarantees.checker import check
from tests.guarantees.drafts import PRIVATE, Draft
from tests.guarantees.readers import Reader, reading
from tests.guarantees.recorder import Recorder, now
from tests.guarantees.records import Closed, Gap, Log, MemorySample, Subscription
from tests.guarantees.server import Service
from tests.guarantees.traffic import ROOMS

pytestmark = pytest.mark.slow

ROOM, ELSEWHERE = ROOMS[0], ROOMS[1]
#: In each batch so many messages of 16 KB: four batches are a megabyte.
SIZE = 16
#: Batches until the store's page caches are full, so that what grows afterwards grows for the readers' sake.
WARM_UP = 300
#: What nine readers may cost, in bytes: 1 MiB of unsent messages each, and as much again for what holds them.
READERS_COST = 9 * (2 << 20) + (16 << 20)


async def publish_large(recorder: Recorder, room: str, batches: range) -> None:
    for batch in batches:
        await recorder.publish_batch([large(room, SIZE * batch + count) for count in range(SIZE)])


def large(room: str, count: int) -> Draft:
    content = f"{PRIVATE} {count}" + "x" * 16_000
    payload = json.dumps({"chatId": room, "eventType": "large", "content": content}).encode()
    return Draft(chat=room, payload=payload, message_type="standard" if count % 4 == 0 else "fifo")


async def test_who_does_not_read_is_dropped_told_and_closed(service: Service, recorder: Recorder) -> None:
    await service.start()
    await publish_large(recorder, ELSEWHERE, range(WARM_UP))
    limit = service.resident + READERS_COST
    swift = Reader(recorder, "carol", [ROOM], "carol")
    pausing = [Reader(recorder, "alice", [ROOM], f"pausing {count}", receive_buffer=4096) for count in range(4)]
    asleep = [Reader(recorder, "bob", [ROOM], f"asleep {count}", receive_buffer=4096) for count in range(4)]
    everybody = [swift, *pausing, *asleep]
    async with reading(*everybody):
        first = {reader: reader.subscriptions[ROOM] for reader in everybody}
        for reader in (*pausing, *asleep):
            reader.reading.clear()
        await publish_large(recorder, ROOM, range(40))
        stalled = now()
        for batch in range(40, 250):  # 50 MiB more: to keep it for who is asleep would show
            await publish_large(recorder, ROOM, range(batch, batch + 1))
            recorder.log.memory.append(MemorySample(at=now(), resident=service.resident, limit=limit))
        await recorder.until(lambda: len(first[swift].heard) == 250 * SIZE, "everything, for who reads", 20)

        for reader in pausing:
            reader.wake()
        await recorder.until(lambda: all(gaps_of(first[reader]) for reader in pausing), "a gap for who reads again")
        await publish_large(recorder, ROOM, range(250, 252))
        everything = {252 * SIZE}
        what = "252 batches, heard or told, exactly"
        await recorder.until(lambda: {accounted_for(first[reader]) for reader in pausing} == everything, what)

        await asyncio.sleep(max(0.0, stalled + 32 - now()))  # the promise is about 30 s of the wall
        for reader in asleep:
            reader.wake()
        await recorder.until(lambda: all(first[reader].end for reader in asleep), "the end of who sleeps")
        codes = {end.code for reader in asleep if isinstance(end := first[reader].end, Closed)}
        assert 4408 in codes
        assert codes <= {4408, 1006}, "1006: who reads on more than 5 s after that finds the connection cut"
        assert first[swift].end is None
        await recorder.read_whole(ROOM)
        assert check(standing(recorder.log)) == []


def accounted_for(subscription: Subscription) -> int:
    """Messages that were heard, and that a gap told of."""
    gaps = gaps_of(subscription)
    numbered = sum(gap.last - gap.first + 1 for gap in gaps if gap.first is not None and gap.last is not None)
    return len(subscription.heard) + numbered + sum(gap.unnumbered for gap in gaps)


def gaps_of(subscription: Subscription) -> list[Gap]:
    return [event for event in subscription.events if isinstance(event, Gap)]


def standing(log: Log) -> Log:
    """Without those who came back at the very end: they may still be at their replay."""
    log.subscriptions = [each for each in log.subscriptions if each.connection.endswith("#1")]
    return log
