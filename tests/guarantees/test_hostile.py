"""Bad input at every layer: the right refusal, no traceback, bounded memory, and the service goes on."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.guarantees import raw
from tests.guarantees.checker import check
from tests.guarantees.drafts import draft
from tests.guarantees.hostile_input import FRAMES, REQUESTS, UPGRADES, VIOLATIONS, Bad
from tests.guarantees.recorder import Recorder, now
from tests.guarantees.records import Acked, MemorySample
from tests.guarantees.server import Service
from tests.guarantees.traffic import ROOMS

pytestmark = pytest.mark.slow


@pytest.fixture
async def target(service: Service, recorder: Recorder) -> AsyncIterator[Service]:
    """A running service that must be as good after the test as before."""
    await service.start()
    limit = service.resident + (64 << 20)
    yield service
    recorder.log.memory.append(MemorySample(at=now(), resident=service.resident, limit=limit))
    assert isinstance((await recorder.publish(draft(ROOMS[0], "it goes on"))).answer, Acked)
    await recorder.read_whole(ROOMS[0])
    recorder.log.output = service.output
    assert "Traceback" not in recorder.log.output
    assert check(recorder.log) == []


def wrong(bad: Bad, answer: raw.Answer | None) -> str | None:
    """What is wrong with an answer; None: nothing."""
    if answer is None:
        return f"{bad.name}: no answer"
    if answer.status != bad.status:
        return f"{bad.name}: {answer.status} instead of {bad.status}: {answer.body[:200]!r}"
    body = json.loads(answer.body)
    if answer.headers.get("x-request-id") != body["requestId"] or not body["message"]:
        return f"{bad.name}: {body} with X-Request-Id {answer.headers.get('x-request-id')}"
    if set(body) - {"message", "code", "requestId", "field"}:
        return f"{bad.name}: says too much: {body}"
    if bad.code not in {None, body["code"]} or bad.field not in {None, body.get("field")}:
        return f"{bad.name}: {body}, due was {bad.code} {bad.field}"
    for header in bad.headers:
        if header not in answer.headers:
            return f"{bad.name}: no {header}"
    return None


async def judge(bads: list[Bad], ask: Callable[[Bad], Awaitable[raw.Answer | None]]) -> list[str]:
    faults = [wrong(bad, await ask(bad)) for bad in bads]
    return [fault for fault in faults if fault]


async def test_every_bad_request_gets_its_refusal(target: Service) -> None:
    faults = await judge(REQUESTS, lambda bad: raw.exchange(target, bad.sent(target.tokens)))
    assert faults == []


async def test_every_bad_upgrade_is_refused_before_it(target: Service) -> None:
    faults = await judge(UPGRADES, lambda bad: raw.exchange(target, bad.sent(target.tokens)))
    assert faults == []


async def upgraded(target: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(raw.upgrade("/dvl", f"Authorization: Bearer {target.tokens['alice']}"))
    assert (await raw.read_answer(reader)).status == 101


async def test_every_bad_frame_gets_its_error_and_the_connection_stays(target: Service) -> None:
    faults = []
    async with asyncio.timeout(30), raw.connected(target) as (reader, writer):
        await upgraded(target, reader, writer)
        for bad in FRAMES:
            writer.write(raw.frame(bad.opcode, bad.text))
            opcode, payload = await raw.read_frame(reader)
            told = json.loads(payload)
            same = (opcode, told["type"], told.get("code"), told.get("requestId")) == (
                1,
                "error",
                bad.code,
                bad.answers,
            )
            if not same or bad.field not in {None, told.get("field")} or bad.chat not in {None, told.get("chatId")}:
                faults.append(f"{bad.text[:80]!r}: {told}, due was {bad.code} {bad.field} {bad.chat} {bad.answers}")
        writer.write(raw.frame(raw.TEXT, b'{"action":"ping"}'))
        assert json.loads((await raw.read_frame(reader))[1])["type"] == "pong"
    assert faults == []


async def test_every_violation_closes_with_its_code(target: Service) -> None:
    faults = []
    for name, sent, code in VIOLATIONS:
        async with asyncio.timeout(10), raw.connected(target) as (reader, writer):
            await upgraded(target, reader, writer)
            writer.write(sent)
            closed = await raw.read_close(reader)
            if closed != code:
                faults.append(f"{name}: {closed} instead of {code}")
    assert faults == []


async def test_twenty_thousand_pings_are_answered_by_who_reads_and_cost_nothing_otherwise(target: Service) -> None:
    async with asyncio.timeout(30), raw.connected(target) as (reader, writer):
        await upgraded(target, reader, writer)
        writer.write(raw.frame(raw.PING, b"?") * 20_000)
        for _ in range(20_000):
            assert await raw.read_frame(reader) == (raw.PONG, b"?")
    async with raw.connected(target) as (reader, writer):
        await upgraded(target, reader, writer)
        for _ in range(20):
            writer.write(raw.frame(raw.PING, b"x" * 125) * 20_000)


async def test_what_is_never_finished_is_cut(target: Service) -> None:
    """Heads, bodies and handshakes, all at once. Within 10 s is what tests/gateways shows, where the clock is ours."""
    token = f"Authorization: Bearer {target.tokens['alice']}"
    halves = {
        "nothing": b"",
        "half a head": b"POST /dvl/publish HTTP/1.1\r\nHost: x\r\n",
        "half an upgrade": raw.upgrade("/dvl", token)[:-2],
        "half a body": raw.request("POST", "/dvl/publish", token, "Content-Length: 100") + b'{"payload":',
        "half a chunk": raw.request("POST", "/dvl/publish", token, "Transfer-Encoding: chunked") + b"ff\r\n{",
    }

    async def end_of(sent: bytes) -> float:
        begun = now()
        async with raw.connected(target) as (reader, writer):
            writer.write(sent)
            try:
                while await reader.read(65_536):
                    pass
            except ConnectionError:
                pass
        return now() - begun

    async with asyncio.timeout(25):
        lasted = await asyncio.gather(*(end_of(sent) for sent in halves.values()))
    assert {name: took for name, took in zip(halves, lasted, strict=True) if not 8 <= took <= 12} == {}


async def test_a_body_that_is_too_large_is_refused_before_it_has_come(target: Service) -> None:
    token = f"Authorization: Bearer {target.tokens['service']}"
    head = raw.request("POST", "/dvl/publish", token, f"Content-Length: {1 << 40}")
    answer = await raw.exchange(target, head + b"{" * 65_536)
    assert answer is None or answer.status == 413
    chunked = raw.request("POST", "/dvl/publish", token, "Transfer-Encoding: chunked")
    answer = await raw.exchange(target, chunked + (b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 200)
    assert answer is None or answer.status == 413
