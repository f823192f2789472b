"""kill -9 under load, at every failpoint and at moments of chance: the log of all that happened has no breach."""

import asyncio
import random
import time

import pytest

from tests.guarantees.checker import check
from tests.guarantees.drafts import FAIL_ON_POISON, POISON, draft
from tests.guarantees.recorder import Recorder
from tests.guarantees.records import Acked, Unknown
from tests.guarantees.server import Service
from tests.guarantees.traffic import ROOMS, Traffic

pytestmark = pytest.mark.slow

#: Failpoint, and at which of its times the lives end, one after the other.
UNDER_LOAD: list[tuple[str, tuple[int, ...]]] = [
    ("publish.accepted", (20, 3)),
    ("commit.before_sync", (20, 2)),
    ("commit.after_sync", (20, 2)),
    ("publish.before_ack", (20, 2)),
    ("processor.before_audience", (20, 2)),
    ("processor.mid_fanout", (20, 2)),
    ("processor.done", (20, 1)),
    ("storage.mid_move", (2, 1)),
    ("storage.before_trim", (2, 1)),
    ("deadletter.before", (1, 1)),
    ("deadletter.after", (1,)),
    ("subscribe.registered", (12, 5)),
    ("subscribe.mid_replay", (3, 1)),
    ("revoke.tombstoned", (2, 1)),
    ("revoke.dropped", (2, 1)),
]

#: Failpoint, and whether a message whose publisher has no answer yet is stored by then.
UNANSWERED: list[tuple[str, bool]] = [
    ("publish.accepted", False),
    ("commit.before_sync", False),
    ("commit.after_sync", True),
    ("publish.before_ack", True),
]


@pytest.mark.parametrize(("failpoint", "times"), UNDER_LOAD, ids=[name for name, _ in UNDER_LOAD])
async def test_nothing_acknowledged_is_lost_where_it_is_killed(
    service: Service, recorder: Recorder, failpoint: str, times: tuple[int, ...]
) -> None:
    others = f",{FAIL_ON_POISON}" if failpoint.startswith("deadletter.") else ""
    await service.start(others[1:])
    async with Traffic(recorder, seed=sum(times)) as traffic:
        await traffic.run_until(50)
        if others:
            await asyncio.gather(*(recorder.publish(draft(room, f"{POISON} {room}")) for room in ROOMS[1:4]))
        service.kill()
        for nth in times:
            service.spawn(f"{failpoint}=kill@{nth}{others}")
            assert await service.ended(20) == -9
        await service.come_back(others[1:])
        await traffic.run_until(100)
        breaches = await traffic.finish()
    assert breaches == []


@pytest.mark.parametrize(("failpoint", "is_stored"), UNANSWERED, ids=[name for name, _ in UNANSWERED])
async def test_who_repeats_what_had_no_answer_is_told_what_became_of_it(
    service: Service, recorder: Recorder, failpoint: str, is_stored: bool
) -> None:
    """One publisher and nobody else, so it is killed at the very message that has no answer."""
    room = ROOMS[0]
    await service.start(f"{failpoint}=kill@5,storage.mid_move=stall:600000")
    for count in range(5):
        unanswered = draft(room, f"{count}", dedupe_id=f"{count}")
        if isinstance((await recorder.publish(unanswered)).answer, Unknown):
            break
    assert await service.ended(20) == -9
    await service.start()
    rows = (await recorder.read_whole(room)).rows
    assert any(row.digest == unanswered.digest for row in rows) is is_stored
    again = (await recorder.publish(unanswered)).answer
    assert isinstance(again, Acked)
    assert again.duplicate is is_stored
    await recorder.read_whole(room)
    assert check(recorder.log) == []


async def test_nothing_is_lost_when_it_is_killed_while_it_recovers(service: Service, recorder: Recorder) -> None:
    await service.start("storage.mid_move=stall:600000")
    async with Traffic(recorder, seed=1) as traffic:
        await traffic.run_until(300)
        service.kill()
        service.spawn("start.mid_recovery=kill@1")
        assert await service.ended(20) == -9
        await service.come_back()
        await traffic.run_until(100)
        breaches = await traffic.finish()
    assert breaches == []


async def test_nothing_is_lost_when_it_is_killed_at_any_moment(service: Service, recorder: Recorder) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    chance = random.Random(seed)
    await service.start()
    async with Traffic(recorder, seed=seed) as traffic:
        for _ in range(6):
            await traffic.run_until(chance.randrange(1, 300))
            service.kill()
            await service.come_back()
        breaches = await traffic.finish()
    assert breaches == []
