"""The disk is full: who publishes is told so, definitely; nothing is lost; room alone heals it."""

from pathlib import Path

import pytest

from tests.guarantees.conftest import FLAGS, World
from tests.guarantees.disks import fill, tmpfs
from tests.guarantees.recorder import Recorder, now
from tests.guarantees.records import Acked, Refused
from tests.guarantees.server import Service, copy_folder
from tests.guarantees.traffic import ROOMS, Traffic

pytestmark = pytest.mark.slow


async def answers(recorder: Recorder, kind: type[Acked | Refused], count: int, what: str) -> None:
    """Waits for `count` answers of a kind to what is sent from now on."""
    since = now()

    def come() -> bool:
        publishes = recorder.log.publishes
        return sum(each.sent_at > since and isinstance(each.answer, kind) for each in publishes) >= count

    await recorder.until(come, what, 30)


async def test_a_full_disk_refuses_definitely_and_heals_by_itself(world: World, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 96) as disk:
        data = copy_folder(world.folder, disk / "data")
        async with Service(data, world.tokens, flags=FLAGS) as service, Recorder(service) as recorder:
            await service.start()
            async with Traffic(recorder, seed=5, revokes=False) as traffic:
                await traffic.run_until(200)
                for _ in range(2):
                    ballast = fill(disk)
                    await answers(recorder, Refused, 20, "a refusal for want of room")
                    assert await recorder.read_history(ROOMS[0]), "history is read from a full disk, too"
                    ballast.unlink()
                    await answers(recorder, Acked, 100, "an acknowledgement once there is room")
                breaches = await traffic.finish()
            told = [service.output.count(words) for words in ("the disk is full", "there is room on the disk again")]
    refusals = {publish.answer for publish in recorder.log.publishes if isinstance(publish.answer, Refused)}
    assert {refusal.code for refusal in refusals} <= {"insufficient_storage", "after_refused"}
    assert {refusal.status for refusal in refusals} <= {507, 0}, "0: a frame's or an entry's, which have no status"
    assert told == [2, 2], "each time once, and not that it was over before it was"
    assert breaches == []
