"""A message's time is up: it is never shown again, its number never comes again, and the oldest never falls."""

import asyncio

import pytest

from tests.guarantees.checker import check
from tests.guarantees.drafts import draft, drafts
from tests.guarantees.publishers import SocketPublisher
from tests.guarantees.recorder import Recorder, now
from tests.guarantees.records import Acked, HistoryRead
from tests.guarantees.server import Service
from tests.guarantees.traffic import ROOMS

pytestmark = pytest.mark.slow

SECONDS = 3
FLAG = ("--retention", f"{SECONDS}s")


async def read_until_gone(recorder: Recorder, room: str, oldest: int) -> HistoryRead:
    """Reads again and again, so that the checker sees every stage, until number `oldest` is gone."""
    until = now() + 8 * SECONDS
    while True:
        read = await recorder.read_whole(room)
        if read.oldest > oldest:
            return read
        assert now() < until, f"oldest {read.oldest}, head {read.head}: {recorder.service.output[-2000:]}"
        await asyncio.sleep(0.02)


async def test_what_has_expired_is_never_returned_and_numbers_go_on(service: Service, recorder: Recorder) -> None:
    room = ROOMS[0]
    recorder.log.retention = SECONDS
    await service.start(flags=FLAG)
    for count in range(40):
        published = await recorder.publish(draft(room, f"{count}", message_type="fifo" if count % 4 else "standard"))
        assert isinstance(published.answer, Acked), published
    read = await read_until_gone(recorder, room, 30)
    assert (read.head, read.oldest, read.rows) == (30, 31, ())

    service.kill()
    await service.start(flags=FLAG)
    read = await recorder.read_whole(room)
    assert (read.head, read.oldest, read.rows) == (30, 31, ()), "a restart brings nothing back"
    await recorder.publish(draft(room, "the next"))
    read = await recorder.read_whole(room)
    assert [row.number for row in read.rows] == [31]
    assert check(recorder.log) == []


async def test_history_that_ends_while_it_is_read_has_no_hole(service: Service, recorder: Recorder) -> None:
    recorder.log.retention = SECONDS
    await service.start(flags=FLAG)
    publisher = SocketPublisher(recorder, "alice", drafts("alice", ROOMS[:1], 4), pause=0.002)
    publishing = asyncio.create_task(publisher.run())
    read = await read_until_gone(recorder, ROOMS[0], 300)
    assert read.rows, "the newest are there while the oldest go"
    publisher.stop()
    await publishing
    await read_until_gone(recorder, ROOMS[0], (await recorder.read_whole(ROOMS[0])).head)
    assert check(recorder.log) == []


async def test_it_may_be_killed_while_it_deletes(service: Service, recorder: Recorder) -> None:
    room = ROOMS[0]
    recorder.log.retention = SECONDS
    await service.start(flags=FLAG)
    for first in range(0, 3_000, 500):
        await recorder.publish_batch([draft(room, f"{count}") for count in range(first, first + 500)])
    await read_until_gone(recorder, room, 3_000)
    await recorder.publish_batch([draft(room, f"{count}") for count in range(3_000, 3_010)])
    service.kill()
    for _ in range(2):
        service.spawn("expire.mid=kill@1", flags=FLAG)
        assert await service.ended(20) == -9
    await service.start(flags=FLAG)
    await recorder.read_whole(room)
    await recorder.publish(draft(room, "the next"))
    read = await recorder.read_whole(room)
    assert (read.head, read.rows[-1].number) == (3_011, 3_011)
    assert check(recorder.log) == []
