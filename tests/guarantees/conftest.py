"""A prepared folder (keys, members, an owner) for every test to copy, and the service on the copy."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import pytest
import pytest_asyncio

from tests.guarantees.recorder import Recorder
from tests.guarantees.server import BACK_END, Service, copy_folder, mint
from tests.guarantees.traffic import MEMBERS, OUTCAST, OWNER, ROOMS

#: No test here is about rates: all publish as fast as they like.
FLAGS: Final = ("--publish-rate", "1000000", "--publish-burst", "1000000")


class World(msgspec.Struct, frozen=True):
    folder: Path
    tokens: Mapping[str, str]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world") / "data"
    tokens = mint(folder, [BACK_END, *MEMBERS, OUTCAST, OWNER])
    async with Service(folder, tokens) as service, Recorder(service) as recorder:
        await service.start()
        for room in ROOMS:
            await recorder.grant(OWNER, room, "owner")
            for member in MEMBERS:
                await recorder.grant(member, room, "member")
        service.terminate()
        assert await service.ended(30) == 0
    return World(folder, tokens)


@pytest.fixture
async def service(world: World, tmp_path: Path) -> AsyncIterator[Service]:
    """Not started yet."""
    async with Service(copy_folder(world.folder, tmp_path / "data"), world.tokens, flags=FLAGS) as service:
        yield service


@pytest.fixture
async def recorder(service: Service) -> AsyncIterator[Recorder]:
    async with Recorder(service) as recorder:
        yield recorder
