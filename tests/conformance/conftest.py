"""Every engine passes the same suite: its stand is a parameter."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.aws import AwsHarness
from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.examples import FEW, Make
from tests.conformance.harness import Harness
from tests.dynamodb_local import judges
from tocsin.engines.file_keys import FileKeys


def embedded(request: pytest.FixtureRequest, files: FileKeys) -> Make:
    return Make(lambda path: EmbeddedHarness(path, files))


def aws(request: pytest.FixtureRequest, files: FileKeys) -> Make:
    make_stage = request.getfixturevalue("make_stage")
    return Make(lambda path: AwsHarness(make_stage(), files), FEW)


def aws_on_dynamodb_local(request: pytest.FixtureRequest, files: FileKeys) -> Make:
    request.getfixturevalue("on_dynamodb_local")
    return aws(request, files)


HARNESSES: Final[Mapping[str, Callable[[pytest.FixtureRequest, FileKeys], Make]]] = {
    "embedded": embedded,
    "aws": aws,
    "aws on DynamoDB Local": aws_on_dynamodb_local,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On each engine; what rests on tables, on DynamoDB Local, too."""
    if "make_harness" in metafunc.fixturenames:
        slow = ["aws", "aws on DynamoDB Local"] if judges(metafunc) else ["aws"]
        params = ["embedded", *[pytest.param(name, marks=pytest.mark.slow) for name in slow]]
        metafunc.parametrize("make_harness", params, indirect=True)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    """The issuer of all tokens: making its key takes a moment."""
    return FileKeys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def make_harness(request: pytest.FixtureRequest, files: FileKeys) -> Make:
    return HARNESSES[request.param](request, files)


@pytest.fixture
async def stand(make_harness: Make, tmp_path: Path) -> AsyncIterator[Harness]:
    """Not started yet."""
    harness = make_harness(tmp_path)
    yield harness
    await harness.stop()


@pytest.fixture
async def harness(stand: Harness) -> Harness:
    """The engine with the whole service on it."""
    await stand.start()
    return stand


@pytest.fixture
async def bare(stand: Harness) -> Harness:
    """The engine alone: its queues are emptied, and nothing else is done."""
    await stand.start(consumers={})
    return stand
