"""The Autobahn cases, ported by kosoku, against the real front with the echo behind it."""

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.gateways.conftest import StartFront
from tests.gateways.echo import Echo
from tocsin.gateways.keepalive import WebSocketSettings
from tocsin.gateways.port import PortSettings

KOSOKU = Path(sys.executable).with_name("kosoku")
#: Left out: 9, large messages for speed; 12 and 13, compression, which is declined.
LEFT_OUT = ("9.*", "12.*", "13.*")
#: Sections 1 to 7 and 10.
CASES = 247
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


class Verdict(msgspec.Struct, rename="camel"):
    behavior: str
    behavior_close: str


@pytest.mark.slow
async def test_no_case_of_the_autobahn_suite_fails(start_front: StartFront, echo: Echo, tmp_path: Path) -> None:
    quiet = WebSocketSettings(ping_interval=3_600)  # or one comes into a case that expects nothing
    await start_front(PortSettings(base_path="/", websocket=quiet), time.monotonic)
    excluded = [argument for section in LEFT_OUT for argument in ("-x", section)]
    kosoku = await asyncio.create_subprocess_exec(
        KOSOKU, "-m", "fuzzingclient", *excluded, "-o", tmp_path, f"127.0.0.1:{echo.port}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await kosoku.communicate()
    assert kosoku.returncode == 0, said.decode()[-2_000:]
    index = msgspec.json.decode((tmp_path / "index.json").read_bytes(), type=dict[str, dict[str, Verdict]])
    (verdicts,) = index.values()
    assert {case.partition(".")[0] for case in verdicts} == {"1", "2", "3", "4", "5", "6", "7", "10"}
    assert len(verdicts) == CASES
    failed = [name for name, verdict in verdicts.items() if not {verdict.behavior, verdict.behavior_close} <= PASSED]
    assert not failed
    assert Counter(verdict.behavior for verdict in verdicts.values())["OK"] >= 242
