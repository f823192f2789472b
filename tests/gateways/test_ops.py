"""The ops listener: alive, ready or not and why, and what is counted; whatever the store does."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateways.doors import Doors, body_of, opened, problem_of
from tocsin.engines.file_keys import FileKeys
from tocsin.gateways.asgi import Answer, Request, Resource, Shell
from tocsin.topology import QUEUES


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("store") / "keys")


@pytest.fixture
async def doors(tmp_path: Path, keys: FileKeys) -> AsyncIterator[Doors]:
    async with opened(tmp_path, keys) as doors:
        yield doors


@pytest.fixture
async def ops(doors: Doors) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(doors.ops), base_url="http://ops") as client:
        yield client


def samples(text: str, name: str) -> dict[str, float]:
    """label -> value, of a metric with one label or none."""
    found = re.findall(rf'^{name}(?:\{{\w+="(\w+)"\}})? (\S+)$', text, re.MULTILINE)
    return {label: float(value) for label, value in found}


async def test_it_is_ready_until_there_is_a_reason_not_to_be(doors: Doors, ops: httpx.AsyncClient) -> None:
    ready = await ops.get("/readyz")
    assert (ready.status_code, body_of(ready)) == (200, {"ready": True, "reasons": []})
    doors.not_ready.append("the store failed")
    not_ready = await ops.get("/readyz")
    assert (not_ready.status_code, body_of(not_ready)) == (503, {"ready": False, "reasons": ["the store failed"]})
    assert (await ops.get("/healthz")).status_code == 200, "alive all the same"


async def test_metrics_say_what_the_queues_hold_now(doors: Doors, ops: httpx.AsyncClient) -> None:
    await doors.publish("room")
    await doors.engine.bus.drain()
    answer = await ops.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {queue.name for queue in QUEUES}
    for name in ("tocsin_queue_depth", "tocsin_queue_age", "tocsin_dead_letters_held"):
        assert samples(answer.text, name) == dict.fromkeys(names, 0.0)
    assert samples(answer.text, "tocsin_storage_lag") == {"": 0.0}
    assert samples(answer.text, "tocsin_publishes_total") == {"a2p": 1.0}
    assert samples(answer.text, "tocsin_connections") == {"": 0.0}
    assert "room" not in answer.text


async def test_metrics_are_shown_even_if_the_store_does_not_answer(tmp_path: Path, keys: FileKeys) -> None:
    async with opened(tmp_path, keys, failpoints="commit.before_sync=raise") as doors:
        transport = httpx.ASGITransport(doors.ops)
        async with httpx.AsyncClient(transport=transport, base_url="http://ops") as ops:
            answer = await ops.get("/metrics")
    assert answer.status_code == 200
    assert "tocsin_queue_depth" in answer.text


async def test_nothing_else_is_there(ops: httpx.AsyncClient) -> None:
    for path in ("/", "/metrics/", "/dvl/publish", "/healthz/x"):
        assert problem_of(await ops.get(path)) == (404, "not_found", None)
    refused = await ops.post("/healthz")
    assert problem_of(refused) == (405, "method_not_allowed", None)
    assert refused.headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await ops.head("/readyz")).content == b""


async def test_none_of_it_is_on_the_public_port(doors: Doors) -> None:
    for path in ("/healthz", "/readyz"):
        assert problem_of(await doors.ask("GET", path)) == (404, "not_found", None)
    assert problem_of(await doors.ask("GET", "/metrics")) == (405, "method_not_allowed", None)


async def test_a_defect_is_answered_and_the_next_request_too(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail(request: Request) -> Answer:
        raise ZeroDivisionError("private")

    shell = Shell({"/": Resource(methods={"GET": fail})}, new_id=lambda: "one", refused=lambda _code: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(shell), base_url="http://x") as client:
        for _ in range(2):
            answer = await client.get("/")
            assert problem_of(answer) == (500, "internal", None)
    printed = capsys.readouterr()
    assert "ZeroDivisionError" in printed.out + printed.err
    assert "private" not in printed.out + printed.err
