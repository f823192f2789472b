"""What `admin.sock` serves: everything of the REST door without a token, and the dead letters."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateways.doors import NO_TLS, Doors, Hasty, opened, problem_of
from tocsin.engines.embedded import sqlite_bus
from tocsin.engines.file_keys import FileKeys
from tocsin.gateways.front import Front
from tocsin.topology import QUEUES

ROOM = "chat-abc123"
#: What fails three times: see `opened`.
POISON = "POISON"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("store") / "keys")


@pytest.fixture
async def doors(tmp_path: Path, keys: FileKeys) -> AsyncIterator[Doors]:
    poison = f"processor.before_audience=raise~{POISON}"
    async with opened(tmp_path, keys, failpoints=poison, clock=Hasty()) as doors:
        yield doors


@pytest.fixture
async def admin(doors: Doors, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    front = Front(doors.admin, new_id=lambda: "an-id")
    await front.start_unix(tmp_path / "admin.sock")
    transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "admin.sock"), verify=NO_TLS)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", trust_env=False) as client:
        yield client
    await front.stop(1)


async def letters(admin: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """The dead letters, once there are `count`."""
    async with asyncio.timeout(10):
        while True:
            answer = await admin.get("/dlq")
            assert answer.status_code == 200
            found: list[dict[str, Any]] = answer.json()["letters"]
            if len(found) == count:
                return found
            await admin.get("/depths")  # answered with the next commit: no busy waiting


async def test_the_rest_door_needs_no_token_here(admin: httpx.AsyncClient) -> None:
    payload = {"chatId": ROOM, "eventType": "chat", "content": "x"}
    published = await admin.post("/publish", json={"messageType": "fifo", "payload": payload})
    assert published.status_code == 202
    (message,) = (await admin.get("/messages", params={"chatId": ROOM})).json()["messages"]
    assert message["senderId"] == "admin"
    granted = await admin.post("/permissions", json={"userId": "alice", "chatId": ROOM, "role": "owner"})
    assert granted.json()["grantedBy"] == "admin"
    assert problem_of(await admin.get("/@connections/x")) == (410, "gone", None)
    assert problem_of(await admin.get("/messages")) == (400, "invalid_argument", "chatId")


async def test_a_ticket_from_here_opens_a_connection_at_the_public_door(doors: Doors, admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/address")).json() == {"url": "http://127.0.0.1/dvl"}
    ticket = (await admin.post("/tickets")).json()["ticket"]
    peer = await doors.connect()
    assert (await peer.upgrade(f"/dvl?ticket={ticket}&chatId={ROOM}")).status == 101
    assert b'"subscribed"' in (await peer.frame())[1]


async def test_dead_letters_are_listed_shown_replayed_and_purged(doors: Doors, admin: httpx.AsyncClient) -> None:
    first, second, third = [await doors.publish(ROOM, f"{POISON} {n}") for n in range(3)]
    listed = await letters(admin, 3)
    assert [letter["messageId"] for letter in listed] == [each["messageId"] for each in (first, second, third)]
    letter = listed[0]
    assert (letter["queue"], letter["chatId"], letter["sequenceNumber"], letter["attempts"]) == (
        "WebSocketFifoQueue",
        ROOM,
        1,
        3,
    )
    assert 'tocsin_dead_letters_total{queue="WebSocketFifoQueue"}' in doors.engine.metrics.expose().decode()
    assert letter["reason"]
    assert letter["firstFailedAt"] <= letter["lastFailedAt"]
    assert letter["firstFailedAt"].endswith("Z")
    assert letter["body"]["payload"]["content"] == f"{POISON} 0"
    assert (await admin.get(f"/dlq/{letter['letterId']}")).json() == letter
    assert len((await admin.get("/dlq?limit=2")).json()["letters"]) == 2
    for queue in ("WebSocketFifoQueue", "WebSocketFifoDLQ"):
        assert len((await admin.get(f"/dlq?queue={queue}")).json()["letters"]) == 3
    assert (await admin.get("/dlq?queue=MessageStorageDLQ")).json() == {"letters": []}

    purged = await admin.post("/dlq/purge", json={"letterIds": [letter["letterId"], "unheard-of"]})
    assert purged.json() == {"count": 1}
    assert problem_of(await admin.get(f"/dlq/{letter['letterId']}")) == (404, "not_found", None)
    replayed = await admin.post("/dlq/replay", json={"letterIds": [listed[1]["letterId"]]})
    assert replayed.json() == {"count": 1}
    again = await letters(admin, 2)
    assert {each["sequenceNumber"] for each in again} == {2, 3}, "it fails again, with the number that it has"


async def test_all_are_replayed_once_each_and_all_are_purged_some_at_a_time(
    doors: Doors, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_bus, "LETTERS_SLICE", 3)
    for n in range(4):
        await doors.publish(f"{ROOM}-{n}", POISON)
    await letters(admin, 4)
    assert (await admin.post("/dlq/replay", json={"all": True})).json() == {"count": 4}
    await letters(admin, 4)
    assert (await admin.post("/dlq/purge", json={"all": True})).json() == {"count": 4}
    assert (await admin.get("/dlq")).json() == {"letters": []}
    assert (await admin.post("/dlq/replay", json={"all": True})).json() == {"count": 0}


async def test_nothing_is_done_to_letters_that_are_not_named(doors: Doors, admin: httpx.AsyncClient) -> None:
    await doors.publish(ROOM, POISON)
    await letters(admin, 1)
    choices: list[tuple[object, str]] = [
        ({}, "letterIds"),
        ({"all": False}, "letterIds"),
        ({"all": True, "letterIds": ["1"]}, "letterIds"),
        ({"letterIds": []}, "letterIds"),
        ({"letterIds": ["9" * 65]}, "letterIds[0]"),
        ({"letterIds": ["1"], "force": True}, "force"),
        ({"all": 1}, "all"),
    ]
    for body, field in choices:
        for action in ("purge", "replay"):
            assert problem_of(await admin.post(f"/dlq/{action}", json=body)) == (400, "invalid_argument", field)
    await letters(admin, 1)


async def test_queries_are_read_strictly_and_the_rest_is_not_there(admin: httpx.AsyncClient) -> None:
    assert problem_of(await admin.get("/dlq?queue=Nowhere")) == (400, "invalid_argument", "queue")
    assert problem_of(await admin.get("/dlq?limit=0")) == (400, "invalid_argument", "limit")
    assert problem_of(await admin.get("/depths?x=1")) == (400, "invalid_argument", "x")
    for unknown in ("unheard-of", "1", "9" * 60_000):
        assert problem_of(await admin.get(f"/dlq/{unknown}")) == (404, "not_found", None)
    assert problem_of(await admin.get("/dlq/replay")) == (405, "method_not_allowed", None)
    assert problem_of(await admin.get("/dlq/")) == (404, "not_found", None)
    assert problem_of(await admin.get("/")) == (404, "not_found", None)


async def test_depths_name_every_queue(admin: httpx.AsyncClient) -> None:
    queues = (await admin.get("/depths")).json()["queues"]
    assert [queue["queue"] for queue in queues] == [queue.name for queue in QUEUES]
    assert all(set(queue) == {"queue", "waiting", "oldestAge", "deadLetters"} for queue in queues)


async def test_none_of_it_is_on_the_public_port(doors: Doors) -> None:
    for path in ("/dlq", "/dlq/1", "/depths", "/address"):
        assert problem_of(await doors.ask("GET", path)) == (404, "not_found", None)
