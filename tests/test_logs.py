"""Log lines: structlog's on one machine, the standard library's on Lambda; nothing is loaded before the first line."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from tocsin import logs
from tocsin.logs import Log


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    logs.configure("text")
    structlog.reset_defaults()


def test_a_line_is_structlogs_with_its_fields() -> None:
    with capture_logs() as lines:
        Log("tocsin.test").warning("it fails", code="gone")
    assert lines == [{"event": "it fails", "code": "gone", "log_level": "warning"}]


def test_a_program_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    Log("tocsin.test").error("it fails", code="gone")
    line = capsys.readouterr().err
    assert '"event": "it fails"' in line
    assert '"code": "gone"' in line


def test_on_lambda_a_line_is_the_standard_librarys_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    logs.configure("lambda")
    with caplog.at_level(logging.INFO):
        Log("tocsin.test").info("it began", code="gone")
    (record,) = caplog.records
    assert (record.name, record.levelname, record.message) == ("tocsin.test", "INFO", "it began")
    assert record.__dict__["code"] == "gone"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_that_cannot_be_written_is_lost_and_nothing_with_it(form: str) -> None:
    program = f"""
import structlog
from tocsin import logs
logs.configure("{form}")
for log in (logs.Log("tocsin.test"), structlog.get_logger("tocsin.test")):
    log.error("it fails", why="x" * 10_000)
print("it goes on", flush=True)
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.stdout == b"it goes on\n"


def test_structlog_is_loaded_with_the_first_line() -> None:
    program = """
import sys
from tocsin import logs
logs.configure("json")
log = logs.Log("tocsin.test")
print("structlog" in sys.modules)
log.info("it began")
print("structlog" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert '"event": "it began"' in done.stderr
