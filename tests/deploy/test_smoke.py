"""The journey of `make aws-smoke` is right where its contract holds: on the embedded service. On AWS it never ran."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guarantees.server import BACK_END, Service, environment, mint
from tests.test_docs import ROOT

pytestmark = pytest.mark.slow


def smoke(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.deploy.smoke"],
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


async def test_the_journey_goes_through_on_a_service_that_keeps_the_contract(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with Service(data, mint(data, [BACK_END, "alice", "bob"])) as service:
        await service.start()
        variables = {
            "REST_URL": service.http_url,
            "WEBSOCKET_URL": service.socket_url,
            "TOKEN": service.tokens["alice"],
            "BACK_END_TOKEN": service.tokens[BACK_END],
        }
        done = await asyncio.to_thread(smoke, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("\nok  ") >= 10
        refused = await asyncio.to_thread(smoke, **variables | {"BACK_END_TOKEN": service.tokens["bob"]})
        assert refused.returncode == 1
        assert "FAILED a back end grants a role: 403 instead of 200" in refused.stdout


def test_what_is_not_set_is_named() -> None:
    done = smoke(TOKEN="x")
    assert done.returncode == 2
    assert done.stderr == "set REST_URL, WEBSOCKET_URL, BACK_END_TOKEN: see tests/deploy/smoke.py\n"
