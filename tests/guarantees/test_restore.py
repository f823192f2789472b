"""A folder that was put back to an earlier state begins a new epoch: who knows more than the store is told."""

import shutil

import pytest

from tests.guarantees.checker import check
from tests.guarantees.drafts import draft
from tests.guarantees.readers import Reader, reading
from tests.guarantees.recorder import Recorder
from tests.guarantees.records import Log
from tests.guarantees.server import Service, copy_folder
from tests.guarantees.traffic import ROOMS

pytestmark = pytest.mark.slow


async def test_after_a_restore_who_knows_more_is_told(service: Service, recorder: Recorder) -> None:
    room = ROOMS[0]
    await service.start()
    reader = Reader(recorder, "carol", [room], "carol")
    async with reading(reader):
        for count in range(5):
            await recorder.publish(draft(room, f"kept {count}"))
        await recorder.until(lambda: reader.have.get(room) == 5, "what is kept")
        service.terminate()
        assert await service.ended(30) == 0
        backup = copy_folder(service.data, service.data.parent / "backup")
        await service.start()
        for count in range(5):
            await recorder.publish(draft(room, f"lost {count}"))
        await recorder.until(lambda: reader.have.get(room) == 10, "what will be lost")
        before = reader.epoch

        service.kill()
        shutil.rmtree(service.data)
        shutil.copytree(backup, service.data)
        await service.start(flags=("--restored",))
        await recorder.until(lambda: reader.epoch != before, "the new epoch")
        start = reader.subscriptions[room].start
        assert start is not None
        assert (start.head, start.recovered) == (5, False)
        await recorder.publish(draft(room, "another sixth"))
        await recorder.until(lambda: reader.have.get(room) == 6, "the sixth")
        after = await recorder.read_whole(room)
        assert [row.number for row in after.rows] == [1, 2, 3, 4, 5, 6]
        assert check(Log(subscriptions=recorder.log.subscriptions, restores=1)) == []
        service.kill()
        await service.start()
        assert (await recorder.read_whole(room)).epoch == after.epoch, "a plain start draws no epoch"
