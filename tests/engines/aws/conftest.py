"""The AWS engine on emulators, peculiarities and all; what every engine promises is in tests/conformance."""

from collections.abc import AsyncIterator, Callable

import pytest

from tests.conformance.aws import AwsHarness
from tests.dynamodb_local import judges
from tests.ministack import Stage
from tocsin.engines.file_keys import FileKeys


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What rests on tables runs on DynamoDB Local, too."""
    if "stage" in metafunc.fixturenames and judges(metafunc):
        places = {"ministack": "ministack", "on_dynamodb_local": "DynamoDB Local"}
        metafunc.parametrize("stage", list(places), ids=places.values(), indirect=True)


@pytest.fixture
def stage(request: pytest.FixtureRequest, make_stage: Callable[[], Stage]) -> Stage:
    """Its tables are where the parameter says, if there is one."""
    request.getfixturevalue(getattr(request, "param", "ministack"))
    return make_stage()


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
