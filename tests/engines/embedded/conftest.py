"""The embedded engine on a folder of the test's own, with the clock in the test's hands."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.manual_clock import ManualClock
from tocsin.engines.file_keys import FileKeys


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def stand(tmp_path: Path, files: FileKeys) -> AsyncIterator[EmbeddedHarness]:
    """Not started yet."""
    harness = EmbeddedHarness(tmp_path, files)
    yield harness
    await harness.stop()


@pytest.fixture
async def bare(stand: EmbeddedHarness) -> EmbeddedHarness:
    """The engine alone: its queues are emptied, and nothing else is done."""
    await stand.start(consumers={})
    return stand
