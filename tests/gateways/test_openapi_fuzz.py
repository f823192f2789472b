"""The OpenAPI document against the running service: schemathesis makes requests of it, and judges the answers.

    document -> schemathesis -> requests, in part wrong on purpose -> service -> answers -> schemathesis: its report

Left out are the two of its checks that take the document for the whole truth: what is right by it may be refused (a
chat that is not there, a cursor), and what is wrong by it may be taken (a parameter that is unknown to an upgrade).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from tests.gateways.conftest import StartFront
from tests.gateways.contract import DOCUMENT
from tests.gateways.doors import BACK_END, HOST, Doors, opened
from tests.gateways.echo import Echo
from tocsin.engines.file_keys import FileKeys
from tocsin.gateways.routes import ROUTES

pytestmark = pytest.mark.slow

LEFT_OUT: Final = "positive_data_acceptance,negative_data_rejection"
SECONDS: Final = 35


class Failure(msgspec.Struct):
    type: str
    title: str
    operations: list[str]


class Operations(msgspec.Struct):
    tested: int


class Cases(msgspec.Struct):
    generated: int


class Report(msgspec.Struct):
    complete: bool
    operations: Operations
    test_cases: Cases
    failures: list[Failure]
    errors: list[object]


async def fuzz(program: Path, url: str, folder: Path, *words: str) -> tuple[Report, str]:
    """What schemathesis found at `url`, and all that it said (its seed, and how to repeat a failure)."""
    report = folder / "report.json"
    process = await asyncio.create_subprocess_exec(
        program, "--no-color", "run", f"{url}/openapi.json", "--exclude-checks", LEFT_OUT, "--continue-on-failure",
        "--warnings", "off", "--report", "json", "--report-json-path", report, *words,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert report.exists(), said.decode()
    return msgspec.json.decode(report.read_bytes(), type=Report), said.decode()


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    async with opened(tmp_path / "data", FileKeys(tmp_path / "keys")) as doors:
        yield doors


async def test_no_generated_request_is_answered_as_is_not_described(
    doors: Doors, tmp_path: Path, program: Callable[[str], Path]
) -> None:
    schemathesis = program("schemathesis")
    await doors.grant(BACK_END, "chat-abc123", "owner")
    await doors.publish("chat-abc123")
    token = f"Authorization: {doors.headers(BACK_END)['authorization']}"
    report, said = await fuzz(schemathesis, doors.url, tmp_path, "--header", token, "--max-time", str(SECONDS))
    assert (report.failures, report.errors, report.complete) == ([], [], True), said[-6_000:]
    assert report.operations.tested == len(ROUTES) - 1, "all but the document's own"
    assert report.test_cases.generated > 1_000
    assert b'tocsin_refusals_total{code="internal"}' not in doors.engine.metrics.expose()


async def answer_wrongly(scope: Scope, receive: Receive, send: Send) -> None:
    """The right document, and nothing that keeps to it."""
    wrong: dict[str, tuple[int, object]] = {
        "/dvl/openapi.json": (200, DOCUMENT),
        "/dvl/publish": (500, {}),
        "/dvl/tickets": (418, {}),
    }
    status, answer = wrong.get(scope["path"], (200, {}))
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})


async def test_the_judge_sees_what_is_not_described(
    start_front: StartFront, echo: Echo, tmp_path: Path, program: Callable[[str], Path]
) -> None:
    schemathesis = program("schemathesis")
    await start_front(http=answer_wrongly)
    report, _ = await fuzz(schemathesis, f"http://{HOST}:{echo.port}/dvl", tmp_path, "--phases", "examples")
    seen = {failure.title: failure.operations for failure in report.failures}
    assert seen["Server error"] == ["POST /dvl/publish"]
    assert "POST /dvl/tickets" in seen["Undocumented status code"]
    assert "GET /dvl/messages" in seen["Response violates schema"]
    assert "GET /dvl/messages" in seen["API accepts invalid authentication"]
