"""The AWS engine on the emulator, peculiarities and all; what every engine promises is in tests/conformance."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.aws import AwsHarness
from tests.ministack import Stage
from tocsin.engines.file_keys import FileKeys


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
async def stand(stage: Stage, files: FileKeys) -> AsyncIterator[AwsHarness]:
    """Not started yet."""
    harness = AwsHarness(stage, files)
    yield harness
    await harness.stop()


@pytest.fixture
async def harness(stand: AwsHarness) -> AwsHarness:
    """With the whole service."""
    await stand.start()
    return stand


@pytest.fixture
async def impatient(stand: AwsHarness) -> AwsHarness:
    """With the whole service. What API Gateway has not answered soon has failed."""
    stand.post_seconds = 0.3
    await stand.start()
    return stand


@pytest.fixture
async def bare(stand: AwsHarness) -> AwsHarness:
    """Queues are emptied: ordered messages are numbered, all are stored, and nothing else is done."""
    await stand.start(consumers={})
    return stand
