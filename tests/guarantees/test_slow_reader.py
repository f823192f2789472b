"""Who does not read costs bounded memory and hurts nobody; a gap tells exactly what he missed; then he is closed."""

import asyncio
import json

import pytest

from tests.guarantees.checker import check
from tests.guarantees.drafts import PRIVATE, Draft
from tests.guarantees.readers import Reader
from tests.guarantees.recorder import Recorder, now
from tests.guarantees.records import Closed, Gap, Log, MemorySample, Subscription
from tests.guarantees.server import Service
from tests.guarantees.traffic import ROOMS, settle

pytestmark = pytest.mark.slow

ROOM = ROOMS[0]
#: 1 MiB of unsent messages each, and what the kernel and the allocator take.
EACH = 2 << 20


def large(count: int) -> Draft:
    content = f"{PRIVATE} {count}" + "x" * 16_000
    payload = json.dumps({"chatId": ROOM, "eventType": "large", "content": content}).encode()
    return Draft(chat=ROOM, payload=payload, message_type="standard" if count % 4 == 0 else "fifo")


async def publish_large(recorder: Recorder, batches: range) -> None:
    """16 messages of 16 KB a batch."""
    for batch in batches:
        await recorder.publish_batch([large(16 * batch + count) for count in range(16)])
        recorder.log.memory.append(
            MemorySample(at=now(), resident=recorder.service.resident, limit=recorder.log.memory[0].limit)
        )


async def test_who_does_not_read_is_dropped_told_and_closed(service: Service, recorder: Recorder) -> None:
    await service.start()
    swift = Reader(recorder, "carol", [ROOM], "carol")
    pausing = [Reader(recorder, "alice", [ROOM], f"pausing {count}", receive_buffer=4096) for count in range(4)]
    asleep = [Reader(recorder, "bob", [ROOM], f"asleep {count}", receive_buffer=4096) for count in range(4)]
    everybody = [swift, *pausing, *asleep]
    tasks = [asyncio.create_task(reader.run()) for reader in everybody]
    await recorder.until(lambda: all(reader.stands for reader in everybody), "everybody")
    await publish_large_once(recorder)
    first = {reader: reader.subscriptions[ROOM] for reader in everybody}
    limit = service.resident + len(everybody) * EACH + (48 << 20)
    recorder.log.memory.append(MemorySample(at=now(), resident=service.resident, limit=limit))
    for reader in (*pausing, *asleep):
        reader.reading.clear()
    stopped = now()

    await publish_large(recorder, range(1, 61))  # 15 MiB: the room goes on at full speed
    await recorder.until(lambda: len(first[swift].heard) == 61 * 16, "everything, for who reads")
    assert now() - stopped < 20, "the swift one was held up"
    for reader in pausing:
        reader.reading.set()
    await recorder.until(lambda: all(gaps_of(first[reader]) for reader in pausing), "a gap for who reads again")
    await publish_large(recorder, range(61, 63))
    await settle(recorder, [ROOM])
    for reader in pausing:
        heard, gaps = first[reader].heard, gaps_of(first[reader])
        told = sum((gap.last or 0) - (gap.first or 1) + 1 for gap in gaps) + sum(gap.unnumbered for gap in gaps)
        assert len(heard) + told == 63 * 16, "heard and told make everything, exactly"

    await asyncio.sleep(max(0.0, stopped + 33 - now()))  # the promise is about 30 s of the wall
    await publish_large(recorder, range(63, 65))
    for reader in asleep:
        reader.reading.set()
    await recorder.until(lambda: all(first[reader].end for reader in asleep), "the end of who sleeps")
    assert {end.code for reader in asleep if isinstance(end := first[reader].end, Closed)} == {4408}
    assert first[swift].end is None
    await settle(recorder, [ROOM])
    assert check(standing(recorder.log)) == []
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def publish_large_once(recorder: Recorder) -> None:
    await recorder.publish_batch([large(count) for count in range(16)])


def gaps_of(subscription: Subscription) -> list[Gap]:
    return [event for event in subscription.events if isinstance(event, Gap)]


def standing(log: Log) -> Log:
    """Without those who came back at the very end: they may still be at their replay."""
    log.subscriptions = [each for each in log.subscriptions if each.connection.endswith("#1")]
    return log
