"""kill -9 under load, at every failpoint and at moments of chance: the log of all that happened has no breach."""

import asyncio
import random
import time

import pytest

from tests.guarantees.drafts import FAIL_ON_POISON, POISON, draft
from tests.guarantees.recorder import Recorder
from tests.guarantees.server import Service
from tests.guarantees.traffic import ROOMS, Traffic

pytestmark = pytest.mark.slow

#: Failpoint, and at which of its times the lives end, one after the other.
UNDER_LOAD: list[tuple[str, tuple[int, ...]]] = [
    ("publish.accepted", (20, 3)),
    ("commit.before_sync", (20, 2)),
    ("commit.after_sync", (20, 2, 5, 9, 3)),
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
        assert await service.start(others[1:]) <= 2.0, "ready within 2 s after kill -9"
        await traffic.run_until(100)
        breaches = await traffic.finish()
    assert breaches == []


async def test_nothing_is_lost_when_it_is_killed_while_it_recovers(service: Service, recorder: Recorder) -> None:
    await service.start("storage.mid_move=stall:600000")
    async with Traffic(recorder, seed=1) as traffic:
        await traffic.run_until(300)
        service.kill()
        service.spawn("start.mid_recovery=kill@1")
        assert await service.ended(20) == -9
        assert await service.start() <= 2.0, "ready within 2 s after kill -9"
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
            assert await service.start() <= 2.0, "ready within 2 s after kill -9"
        breaches = await traffic.finish()
    assert breaches == []
