"""Resuming under a firehose: no hole, no repeat; and who cannot be brought up to date is told so."""

import asyncio
import random
from functools import partial

import pytest

from tests.guarantees.checker import check
from tests.guarantees.drafts import draft, drafts
from tests.guarantees.publishers import RequestPublisher, SocketPublisher
from tests.guarantees.readers import Reader, reading
from tests.guarantees.recorder import Recorder
from tests.guarantees.records import Gap, Subscription
from tests.guarantees.server import Service
from tests.guarantees.traffic import ROOMS, settle

pytestmark = pytest.mark.slow


def has_published(recorder: Recorder, goal: int) -> bool:
    return len(recorder.log.publishes) >= goal


async def test_resume_and_sync_under_a_firehose_leave_no_hole(service: Service, recorder: Recorder) -> None:
    chance = random.Random(9)
    await service.start()
    readers = [Reader(recorder, "carol", [ROOMS[count % 2]], f"resumes {count}") for count in range(6)]
    readers += [Reader(recorder, "dave", ROOMS, f"syncs {count}") for count in range(4)]
    publishers: list[SocketPublisher | RequestPublisher] = [
        SocketPublisher(recorder, "alice", drafts("alice", ROOMS[:2], 1), window=64),
        SocketPublisher(recorder, "bob", drafts("bob", ROOMS, 2), window=64),
        RequestPublisher(recorder, "service", drafts("service", ROOMS, 3), batch=40),
    ]
    async with reading(*readers):
        publishing = [asyncio.create_task(publisher.run()) for publisher in publishers]
        for _ in range(20):
            goal = len(recorder.log.publishes) + 300
            await recorder.until(partial(has_published, recorder, goal), "the firehose", 30)
            for reader in chance.sample(readers, 5):
                reader.drop()
        for publisher in publishers:
            publisher.stop()
        await asyncio.gather(*publishing)
        for reader in readers:
            await reader.standing()
        await settle(recorder, ROOMS)
        assert check(recorder.log) == []
    assert not any(isinstance(event, Gap) for each in recorder.log.subscriptions for event in each.events)
    resumed = [each for each in recorder.log.subscriptions if each.last is not None and each.start is not None]
    assert len(resumed) > 50
    assert all(each.start is not None and each.start.recovered for each in resumed)


async def test_who_is_subscribed_hears_what_is_published_next(service: Service, recorder: Recorder) -> None:
    """Nothing is told instead of being sent: nobody is slow here."""
    room = ROOMS[0]
    await service.start()
    for count in range(40):
        reader = Reader(recorder, "carol", [room], f"carol {count}")
        async with reading(reader):
            subscription = reader.subscriptions[room]
            await recorder.publish(draft(room, f"numbered {count}"))
            await recorder.publish(draft(room, f"plain {count}", message_type="standard"))
            await recorder.until(partial(has_events, subscription, 3), "what was published next")
            assert len(subscription.heard) == 2, subscription.events
    await settle(recorder, [room])
    assert check(recorder.log) == []


def has_events(subscription: Subscription, count: int) -> bool:
    return len(subscription.events) >= count


async def resumed(recorder: Recorder, have: int, name: str, epoch: str | None = None) -> Reader:
    """A reader that says it has everything up to `have`; closed again."""
    reader = Reader(recorder, "carol", [ROOMS[0]], name)
    reader.have[ROOMS[0]], reader.epoch = have, epoch
    async with reading(reader):
        pass
    return reader


async def test_who_missed_too_much_gets_a_gap_and_the_newest(service: Service, recorder: Recorder) -> None:
    room, total = ROOMS[0], 10_500
    await service.start()
    for first in range(0, total, 500):
        await recorder.publish_batch([draft(room, f"{count}") for count in range(first, first + 500)])
    epoch = (await recorder.read_whole(room)).epoch

    late = (await resumed(recorder, 0, "who missed all", epoch)).subscriptions[room]
    gap, *newest = late.events[: late.events.index(late.start)]  # type: ignore[arg-type]  # it has started
    assert isinstance(gap, Gap)
    assert (gap.first, len(newest)) == (1, total - (gap.last or 0))
    assert late.start is not None
    assert not late.start.recovered

    there = (await resumed(recorder, 600, "who missed 9,900", epoch)).subscriptions[room]
    assert there.start is not None
    assert there.start.recovered
    assert len(there.heard) == total - 600

    beyond = (await resumed(recorder, total + 1, "who knows more", epoch)).subscriptions[room]
    assert beyond.events[0] == beyond.start, "nothing is replayed"
    other = (await resumed(recorder, 10, "who comes from elsewhere", "another-epoch")).subscriptions[room]
    assert other.events[0] == other.start, "nothing is replayed"
    assert beyond.start is not None
    assert other.start is not None
    assert (beyond.start.recovered, other.start.recovered) == (False, False)
    assert check(recorder.log) == []
