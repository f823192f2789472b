"""The power goes: what the disk has by then is all that is left, and everything acknowledged is in it."""

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.guarantees.conftest import FLAGS, World
from tests.guarantees.disks import copy_image, make_ext4, mounted
from tests.guarantees.recorder import Recorder
from tests.guarantees.server import Service, copy_folder
from tests.guarantees.traffic import Traffic

pytestmark = pytest.mark.slow


async def test_everything_acknowledged_survives_power_cuts(
    world: World, tmp_path: Path, program: Callable[[str], Path]
) -> None:
    image = tmp_path / "disk-0.img"
    make_ext4(image, 128, program("mkfs.ext4"))
    with ExitStack() as mounts:
        disk = mounts.enter_context(mounted(image, tmp_path / "disk-0", "-o", "loop"))
        data = copy_folder(world.folder, disk / "data")
        os.sync()  # the folder that was prepared is old; what comes from now on is the service's own business
        async with Service(data, world.tokens, flags=FLAGS) as service, Recorder(service) as recorder:
            await service.start()
            async with Traffic(recorder, seed=7) as traffic:
                for cut in (1, 2, 3):
                    await traffic.run_until(300)
                    service.freeze()
                    left, image = image, tmp_path / f"disk-{cut}.img"
                    await asyncio.to_thread(copy_image, left, image)
                    service.kill()
                    disk = mounts.enter_context(mounted(image, tmp_path / f"disk-{cut}", "-o", "loop"))
                    service.data = disk / "data"
                    await service.start()
                breaches = await traffic.finish()
    assert breaches == []
