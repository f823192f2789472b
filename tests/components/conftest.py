"""The whole service on an embedded engine in a folder of the test's own; time is the test's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tocsin.engines.file_keys import FileKeys


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
async def stand(tmp_path: Path, files: FileKeys) -> AsyncIterator[EmbeddedHarness]:
    """Not started yet."""
    harness = EmbeddedHarness(tmp_path, files)
    yield harness
    await harness.stop()


@pytest.fixture
async def harness(stand: EmbeddedHarness) -> EmbeddedHarness:
    await stand.start()
    return stand
