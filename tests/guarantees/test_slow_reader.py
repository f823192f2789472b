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
from tests.guarantees.traffic import ROOMS, settle

pytestmark = pytest.mark.slow

ROOM = ROOMS[0]
#: In each batch so many messages of 16 KB.
SIZE = 16
#: Batches until the store's page caches are full, so that what grows afterwards grows for the readers' sake.
WARM_UP = 300
#: What nine readers may cost, in bytes: 1 MiB of unsent messages each, and as much again for what holds them.
READERS_COST = 9 * (2 << 20) + (24 << 20)


def large(count: int) -> Draft:
    content = f"{PRIVATE} {count}" + "x" * 16_000
    payload = json.dumps({"chatId": ROOM, "eventType": "large", "content": content}).encode()
    return Draft(chat=ROOM, payload=payload, message_type="standard" if count % 4 == 0 else "fifo")


async def publish_large(recorder: Recorder, batches: range) -> None:
    for batch in batches:
        await recorder.publish_batch([large(SIZE * batch + count) for count in range(SIZE)])


async def test_who_does_not_read_is_dropped_told_and_closed(service: Service, recorder: Recorder) -> None:
    await service.start()
    await publish_large(recorder, range(WARM_UP))
    limit = service.resident + READERS_COST
    swift = Reader(recorder, "carol", [ROOM], "carol")
    pausing = [Reader(recorder, "alice", [ROOM], f"pausing {count}", receive_buffer=4096) for count in range(4)]
    asleep = [Reader(recorder, "bob", [ROOM], f"asleep {count}", receive_buffer=4096) for count in range(4)]
    everybody = [swift, *pausing, *asleep]
    async with reading(*everybody):
        first = {reader: reader.subscriptions[ROOM] for reader in everybody}
        for reader in (*pausing, *asleep):
            reader.reading.clear()
        stopped = now()

        for batch in range(WARM_UP, WARM_UP + 400):  # 100 MiB, and the room goes on at full speed
            await publish_large(recorder, range(batch, batch + 1))
            recorder.log.memory.append(MemorySample(at=now(), resident=service.resident, limit=limit))
        await recorder.until(lambda: len(first[swift].heard) == 400 * SIZE, "everything, for who reads")
        assert now() - stopped < 20, "the swift one was held up"
        for reader in pausing:
            reader.wake()
        await recorder.until(lambda: all(gaps_of(first[reader]) for reader in pausing), "a gap for who reads again")
        await publish_large(recorder, range(700, 702))
        heard_or_told = "402 batches, heard or told, exactly"
        await recorder.until(
            lambda: {accounted_for(first[reader]) for reader in pausing} == {402 * SIZE}, heard_or_told
        )

        await asyncio.sleep(max(0.0, stopped + 33 - now()))  # the promise is about 30 s of the wall
        await publish_large(recorder, range(702, 704))
        for reader in asleep:
            reader.wake()
        await recorder.until(lambda: all(first[reader].end for reader in asleep), "the end of who sleeps")
        assert {end.code for reader in asleep if isinstance(end := first[reader].end, Closed)} == {4408}
        assert first[swift].end is None
        await settle(recorder, [ROOM])
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
