"""The disk is full: who publishes is told so, definitely; nothing is lost; room alone heals it."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.guarantees.conftest import FLAGS, World
from tests.guarantees.disks import fill, tmpfs
from tests.guarantees.drafts import draft
from tests.guarantees.recorder import Recorder, now
from tests.guarantees.records import Acked, Refused
from tests.guarantees.server import HOST, Service, copy_folder
from tests.guarantees.traffic import OUTCAST, ROOMS, Traffic

pytestmark = pytest.mark.slow

FULL, HEALED = "the disk is full", "there is room on the disk again"


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
            told = [service.output.count(words) for words in (FULL, HEALED)]
    refusals = {publish.answer for publish in recorder.log.publishes if isinstance(publish.answer, Refused)}
    assert {refusal.code for refusal in refusals} <= {"insufficient_storage", "after_refused"}
    assert {refusal.status for refusal in refusals} <= {507, 0}, "0: a frame's or an entry's, which have no status"
    assert told == [2, 2], "each time once, and not that it was over before it was"
    assert breaches == []


async def publish_until_refused(recorder: Recorder) -> None:
    """So that the spare file is given up, where there is one."""
    for number in range(10_000):
        answer = (await recorder.publish(draft(ROOMS[0], f"{number} {'x' * 30_000}"))).answer
        if isinstance(answer, Refused):
            assert answer == Refused(status=507, code="insufficient_storage")
            return
    raise AssertionError("the disk was never full")


async def revoke(recorder: Recorder) -> int:
    params: dict[str, str | int] = {"userId": OUTCAST, "chatId": ROOMS[0]}
    answer = await recorder.ask("DELETE", "/permissions", params=params)
    assert answer is not None
    return answer.status_code


async def is_called_full(service: Service) -> bool:
    """What an operator's alarm goes by."""
    async with httpx.AsyncClient(trust_env=False) as http:
        lines = (await http.get(f"http://{HOST}:{service.ops_port}/metrics")).text.splitlines()
    assert ("tocsin_disk_full 0.0" in lines) != ("tocsin_disk_full 1.0" in lines)
    return "tocsin_disk_full 1.0" in lines


async def healed(service: Service) -> None:
    """Waits until its metrics say so."""
    deadline = now() + 10
    while await is_called_full(service):
        assert now() < deadline, service.output[-2000:]
        await asyncio.sleep(0.02)
    assert HEALED in service.output


async def test_a_start_on_a_full_disk_is_told_and_gets_its_spare_file_back(world: World, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 48) as disk:
        data = copy_folder(world.folder, disk / "data")
        spare = data / "spare"
        async with Service(data, world.tokens, flags=FLAGS) as service, Recorder(service) as recorder:
            await service.start()
            await recorder.grant(OUTCAST, ROOMS[0], "reader")
            assert not await is_called_full(service)
            fill(disk)
            await publish_until_refused(recorder)
            assert await is_called_full(service)
            assert not spare.exists()
            service.kill()
            ballast = fill(disk)  # what the spare file had left, too

            await service.start()  # ready: history and listening go on
            assert service.output.count(FULL) == 2, "once in each life"
            assert await is_called_full(service)
            await publish_until_refused(recorder)
            assert await recorder.read_history(ROOMS[0])
            assert await revoke(recorder) == 507, "there was nothing to give up"

            ballast.unlink()
            await healed(service)
            assert spare.exists()
            assert isinstance((await recorder.publish(draft(ROOMS[0], "there is room"))).answer, Acked)

            fill(disk)
            await publish_until_refused(recorder)
            assert await revoke(recorder) == 200, "the spare file's room is for this, too"
            assert (service.output.count(FULL), service.output.count(HEALED)) == (3, 1)


async def test_who_removes_the_spare_file_can_start_on_a_full_disk_and_room_alone_heals_it(
    world: World, tmp_path: Path
) -> None:
    with tmpfs(tmp_path / "disk", 24) as disk:
        data = copy_folder(world.folder, disk / "data")
        async with Service(data, world.tokens, flags=FLAGS) as service:
            ballast = fill(disk)
            (data / "spare").unlink()
            await service.start()
            assert service.output.count(FULL) == 1
            assert await is_called_full(service)
            ballast.unlink()
            await healed(service)
            assert (data / "spare").exists()
