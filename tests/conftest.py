"""What every test can lean on. Fixtures of one subject stand in the conftest of its folder.

Rule: warnings are errors, nothing is run again until it passes, and in CI no test may be skipped for a missing program.
"""

import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.dynamodb_local import DynamodbLocal
    from tests.ministack import Ministack, Stage

#: Where `make test` puts schemathesis, which must not stand beside pytest.
FUZZ = Path(__file__).parent.parent / "build" / "fuzz" / "bin"

# No deadline: one core does everything here, and a slow example is no defect. The blob repeats a failure exactly.
settings.register_profile("tocsin", deadline=None, print_blob=True)
settings.load_profile("tocsin")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Where durations are asked for (`make test`): each part's, with its fixtures."""
    if config.getoption("durations") is None:
        return
    parts: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file = report.nodeid.partition("::")[0]
                parts[file.rpartition("/")[0] or file] += report.duration
    terminalreporter.section("parts")
    for part, seconds in sorted(parts.items(), key=lambda each: -each[1]):
        terminalreporter.write_line(f"{seconds:7.1f} s  {part}")


@pytest.fixture(scope="session")
def program() -> Callable[[str], Path]:
    """Where a program is, of the system or of `make test`; without it the test is skipped, in CI it fails."""

    def find(name: str) -> Path:
        folders = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(FUZZ)]
        path = shutil.which(name, path=os.pathsep.join(folders))
        if path is not None:
            return Path(path)
        if "CI" in os.environ:
            pytest.fail(f"CI must have {name}: add its package to tests/system-packages, or make it in the Makefile")
        pytest.skip(f"needs {name}")

    return find


@pytest.fixture(scope="session")
def ministack() -> "Iterator[Ministack]":
    """The emulator of AWS: one process for all tests, and boto3 speaks to it. A test that asks for it is `slow`.

    It ends with the session, also where somebody ends that from outside.
    """
    from tests.ministack import Ministack

    for ends in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, signal.default_int_handler)
    emulator = Ministack()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        yield emulator
    emulator.stop()


@pytest.fixture(scope="session")
def make_stage(ministack: "Ministack") -> "Iterator[Callable[[], Stage]]":
    """Makes tables, topics and queues that nothing else uses."""
    from tests.ministack import Services, Stage

    services, numbers = Services(), count(1)
    yield lambda: Stage(services, f"stage{next(numbers)}").create()
    services.close()


@pytest.fixture(scope="session")
def dynamodb_local(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[DynamodbLocal]":
    """Amazon's own, of which there is only DynamoDB: one process for all tests."""
    from tests.dynamodb_local import DynamodbLocal

    local = DynamodbLocal(tmp_path_factory.mktemp("dynamodb-local") / "log")
    yield local
    local.stop()


@pytest.fixture
def on_dynamodb_local(dynamodb_local: "DynamodbLocal", monkeypatch: pytest.MonkeyPatch) -> None:
    """For this test, tables are there: the stage's, and the engine's."""
    from tests.ministack import TABLES_URL

    monkeypatch.setenv(TABLES_URL, dynamodb_local.url)


@pytest.fixture
def stage(make_stage: "Callable[[], Stage]") -> "Stage":
    return make_stage()
