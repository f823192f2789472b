"""The REST door over real sockets: every route, every refusal and their order, cursors, batches, browsers."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateways.doors import BACK_END, ORIGIN, Doors, body_of, opened, problem_of
from tests.gateways.echo import eventually
from tests.gateways.peer import KEY, Response, upgrade_head
from tocsin.engines.file_keys import FileKeys
from tocsin.errors import STATUS, Refusal
from tocsin.gateways import batch
from tocsin.gateways.asgi import ALLOWED_HEADERS
from tocsin.gateways.cursors import Cursors, Question
from tocsin.gateways.records import MAX_BATCH
from tocsin.gateways.routes import ROUTES
from tocsin.message import parse_rfc3339

ROOM = "chat-abc123"
ENTRY = {"messageType": "fifo", "payload": {"chatId": ROOM, "eventType": "chat", "content": "x"}}
NEVER = "2020-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("store") / "keys")


@pytest.fixture
async def doors(tmp_path: Path, keys: FileKeys) -> AsyncIterator[Doors]:
    async with opened(tmp_path, keys) as doors:
        yield doors


def entry(chat: str = ROOM, **payload: object) -> dict[str, object]:
    whole = {"chatId": chat, "eventType": "chat", "content": "x"} | payload
    return {"messageType": "fifo", "payload": {name: value for name, value in whole.items() if value is not None}}


def refusals(doors: Doors) -> dict[str, float]:
    """By code, as they are counted."""
    text = doors.engine.metrics.expose().decode()
    return {code: float(count) for code, count in re.findall(r'tocsin_refusals_total\{code="(\w+)"\} (\S+)', text)}


async def pages(
    doors: Doors, query: str, between: Callable[[], Awaitable[None]] | None = None
) -> list[list[dict[str, Any]]]:
    """All pages, from the first; `between` is done before each of the others."""
    found = []
    following = ""
    while True:
        response = await doors.ask("GET", f"/messages?{query}{following}")
        assert response.status_code == 200, response.text
        page = msgspec.json.decode(response.content)
        found.append(page["messages"])
        if page["nextStartKey"] is None:
            return found
        following = f"&startKey={page['nextStartKey']}"
        if between is not None:
            await between()


# -- publishing --------------------------------------------------------------------------------------------------------


async def test_a_published_payload_stands_in_history_byte_for_byte(doors: Doors) -> None:
    payload = (
        b'{ "eventType":"chat", "z":1e400,"chatId":"chat-abc123" ,"content":{"b":123456789012345678901234567890,'
        b'"a":[0.10000000000000000555,-0.0,1E+2],"u":"\\u00e9\xc3\xa9\\/"} }'
    )
    response = await doors.ask("POST", "/publish", b'{"messageType":"fifo","payload":%b}' % payload)
    assert response.status_code == 202
    accepted = body_of(response)
    assert set(accepted) == {"messageId", "timestamp", "duplicate"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(accepted["timestamp"]))
    history = await doors.ask("GET", f"/messages?chatId={ROOM}")
    assert b'"payload":' + payload + b"}]" in history.content
    page = history.json()
    assert (page["headSequence"], page["oldestSequence"], page["nextStartKey"]) == (1, 1, None)
    assert isinstance(page["epoch"], str)


async def test_the_specifications_own_example_runs_verbatim(doors: Doors) -> None:
    await doors.grant("user-123", ROOM, "member")
    body = (
        b'{\n    "targetChannel": "WebSocket",\n    "messageType": "fifo",\n    "payload": {\n'
        b'      "chatId": "chat-abc123",\n      "eventType": "notification",\n'
        b'      "content": "Message from service",\n      "requestSequence": true\n    }\n  }'
    )
    assert (await doors.ask("POST", "/publish", body, user="user-123")).status_code == 202


async def test_a_repeated_id_is_answered_with_the_first_receipt(doors: Doors) -> None:
    key = {"idempotency-key": "order 17"}
    first = await doors.ask("POST", "/publish", ENTRY, headers=key)
    again = await doors.ask("POST", "/publish", ENTRY, headers=key)
    in_body = await doors.ask("POST", "/publish", {**ENTRY, "messageDeduplicationId": "order 17"}, headers=key)
    assert body_of(again) == body_of(in_body) == body_of(first) | {"duplicate": True}
    other = await doors.ask("POST", "/publish", entry(content="y"), headers=key)
    assert problem_of(other) == (409, "idempotency_conflict", "messageDeduplicationId")
    (page,) = await pages(doors, f"chatId={ROOM}")
    assert [message["messageDeduplicationId"] for message in page] == ["order 17"]


async def test_ids_that_contradict_each_other_or_stand_at_a_batch_are_refused(doors: Doors) -> None:
    two = {**ENTRY, "messageDeduplicationId": "a"}
    differing = await doors.ask("POST", "/publish", two, headers={"idempotency-key": "b"})
    assert problem_of(differing) == (400, "invalid_argument", "messageDeduplicationId")
    empty = await doors.ask("POST", "/publish", ENTRY, headers={"idempotency-key": ""})
    assert problem_of(empty) == (400, "invalid_argument", "messageDeduplicationId")
    batched = await doors.ask("POST", "/publish/batch", {"messages": [ENTRY]}, headers={"idempotency-key": "b"})
    assert problem_of(batched) == (400, "invalid_argument", "Idempotency-Key")
    (page,) = await pages(doors, f"chatId={ROOM}")
    assert page == []


async def test_a_publish_that_comes_too_often_is_told_when_to_come_again(tmp_path: Path, keys: FileKeys) -> None:
    async with opened(tmp_path, keys, rate=0.1, burst=2) as doors:
        await doors.grant("alice", ROOM, "member")
        answers = [await doors.ask("POST", "/publish", ENTRY, user="alice") for _ in range(8)]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert refused
        assert problem_of(refused[0]) == (429, "rate_limited", None)
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refusals(doors)["rate_limited"] == len(refused)


# -- batches -----------------------------------------------------------------------------------------------------------


async def test_a_batch_answers_each_entry_in_its_place(doors: Doors) -> None:
    await doors.grant("alice", ROOM, "member")
    await doors.grant("alice", "other", "member")
    answer = await doors.ask(
        "POST",
        "/publish/batch",
        {
            "messages": [
                entry(),
                entry(eventType=None),
                entry(),
                entry("other"),
                entry("other") | {"colour": 1},
                entry("other") | {"messageType": "standard"},
                entry("not-hers"),
                7,
            ]
        },
        user="alice",
    )
    assert answer.status_code == 200
    results = msgspec.json.decode(answer.content)["results"]
    errors = [result.get("error") for result in results]
    assert [error and (error["code"], error.get("field")) for error in errors] == [
        None,
        ("invalid_argument", "messages[1].payload.eventType"),
        ("after_refused", None),
        None,
        ("invalid_argument", "messages[4].colour"),
        ("after_refused", None),
        ("forbidden", None),
        ("invalid_argument", "messages[7]"),
    ]
    assert set(results[0]) == {"messageId", "timestamp", "duplicate"}
    assert all(set(error) <= {"code", "message", "field"} for error in errors if error)
    assert len((await pages(doors, f"chatId={ROOM}"))[0]) == 1
    assert refusals(doors) == {"invalid_argument": 3, "after_refused": 2, "forbidden": 1}


async def test_an_entry_that_is_not_strict_json_or_too_large_is_refused_by_itself(doors: Doors) -> None:
    good = msgspec.json.encode(ENTRY)
    twice = b'{"payload":{"chatId":"a","chatId":"b","eventType":"e","content":1}}'
    deep = b'{"payload":{"chatId":"c","eventType":"e","content":' + b"[" * 40 + b"]" * 40 + b"}}"
    large = msgspec.json.encode(entry("d", content="x" * 131_072))
    after = msgspec.json.encode(entry("d"))
    answer = await doors.ask(
        "POST", "/publish/batch", b'{"messages":[%b]}' % b",".join([good, twice, deep, large, after])
    )
    results = msgspec.json.decode(answer.content)["results"]
    assert [(result.get("error") or {}).get("code") for result in results] == [
        None,
        "invalid_json",
        "invalid_json",
        "message_too_large",
        "after_refused",
    ]
    assert results[1]["error"]["field"] == "messages[1]"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[" * 100_000, "invalid_argument"),
        (b'{"messages":' + b"[" * 100_000, "invalid_json"),
        (b'{"messages":[NaN]}', "invalid_json"),
        (b'{"messages":[{}]} {}', "invalid_json"),
        (b'{"messages":[{}],"messages":[{}]}', "invalid_json"),
        (b'{"messages":[{}],"m\\u0065ssages":[1]}', "invalid_json"),
        (b'\xef\xbb\xbf{"messages":[{}]}', "invalid_json"),
        (b"[]", "invalid_argument"),
        (b"{}", "invalid_argument"),
        (b'{"messages":{}}', "invalid_argument"),
        (b'{"messages":[{}],"more":1}', "invalid_argument"),
        (b'{"messages":[]}', "invalid_argument"),
        (b'{"messages":[' + b"0," * MAX_BATCH + b"0]}", "invalid_argument"),
        (b'{"messages":[' + b"[]," * 2_000_000 + b"0]}", "invalid_argument"),
    ],
)
def test_an_envelope_that_is_not_a_batch_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        batch.split(body)
    assert refused.value.code == code


def test_what_an_envelope_has_beside_its_messages_is_named() -> None:
    for body in (b'{"messages":[{}],"more":1}', b'{"more":1,"messages":[{}]}'):
        with pytest.raises(Refusal, match=r"This field is not known\.") as refused:
            batch.split(body)
        assert refused.value.field == "more"


@given(
    st.lists(st.binary(max_size=3).map(lambda b: msgspec.json.encode({"a": b.hex()})), min_size=1, max_size=9),
    st.data(),
)
def test_a_batch_is_cut_where_its_entries_end(entries: list[bytes], data: st.DataObject) -> None:
    def space() -> bytes:
        return data.draw(st.sampled_from([b"", b" ", b"\r\n\t "]))

    body = space() + b"{" + space() + b'"messages"' + space() + b":" + space() + b"["
    body += b",".join(space() + each + space() for each in entries) + b"]" + space() + b"}" + space()
    assert batch.split(body) == entries


async def test_five_hundred_entries_are_taken_in_order(doors: Doors) -> None:
    answer = await doors.ask("POST", "/publish/batch", {"messages": [entry(content=n) for n in range(MAX_BATCH)]})
    assert answer.status_code == 200
    found = [page["payload"] for pages_ in await pages(doors, f"chatId={ROOM}&order=asc&limit=1000") for page in pages_]
    assert found == [{"chatId": ROOM, "eventType": "chat", "content": n} for n in range(MAX_BATCH)]


# -- history -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "before"),
    [("order=asc", [0, 1, 2, 3, 4]), ("order=desc", [4, 3, 2, 1, 0]), ("fromSequence=3", [2, 3, 4])],
)
async def test_pages_neither_repeat_nor_skip_while_messages_arrive(doors: Doors, query: str, before: list[int]) -> None:
    for n in range(5):
        await doors.publish(ROOM, n)
    arrived: list[int] = []

    async def between() -> None:
        if len(arrived) < 3:
            arrived.append(5 + len(arrived))
            await doors.publish(ROOM, arrived[-1])

    found = await pages(doors, f"chatId={ROOM}&limit=2&{query}", between)
    contents = [message["payload"]["content"] for page in found for message in page]
    assert contents == before + (arrived if query != "order=desc" else [])


async def test_newest_come_first_and_ranges_are_inclusive(doors: Doors) -> None:
    times = [str((await doors.publish(ROOM, n))["timestamp"]) for n in range(5)]

    async def found(query: str) -> list[object]:
        (page,) = await pages(doors, f"chatId={ROOM}&{query}")
        return [message["sequenceNumber"] for message in page]

    assert await found("") == [5, 4, 3, 2, 1]
    assert await found("fromSequence=2&toSequence=4") == [2, 3, 4]
    assert await found("toSequence=2&order=asc") == [1, 2]
    assert await found("fromSequence=6") == []
    assert 3 in await found(f"fromTimestamp={times[2]}&toTimestamp={times[2]}")
    assert await found(f"fromTimestamp={times[0]}&order=asc") == [1, 2, 3, 4, 5]
    assert await found(f"toTimestamp={NEVER}") == []
    moment = parse_rfc3339(times[2])
    assert moment == parse_rfc3339(times[2].replace("Z", "+00:00"))
    assert 3 in await found(f"fromTimestamp={times[2].replace('Z', '+00:00')}")


async def test_an_empty_chat_has_head_zero_and_oldest_one(doors: Doors) -> None:
    page = body_of(await doors.ask("GET", "/messages?chatId=nobody-was-here"))
    assert (page["messages"], page["headSequence"], page["oldestSequence"]) == ([], 0, 1)


async def test_a_cursor_is_good_for_its_own_question_alone(doors: Doors) -> None:
    for n in range(5):
        await doors.publish(ROOM, n)
        await doors.publish("other", n)
    first = body_of(await doors.ask("GET", f"/messages?chatId={ROOM}&limit=2&fromTimestamp=2020-01-01T00:00:00Z"))
    key = str(first["nextStartKey"])
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key)

    async def code(query: str) -> object:
        response = await doors.ask("GET", f"/messages?{query}")
        return response.status_code if response.status_code == 200 else problem_of(response)

    kept = f"chatId={ROOM}&fromTimestamp=2020-01-01T01:00:00%2B01:00"
    refused = (400, "invalid_cursor", "startKey")
    assert await code(f"{kept}&startKey={key}&limit=3") == 200, "the limit may change, and how the time is written"
    assert await code(f"chatId=other&fromTimestamp=2020-01-01T00:00:00Z&startKey={key}") == refused
    assert await code(f"chatId={ROOM}&startKey={key}") == refused
    assert await code(f"{kept}&toTimestamp=2100-01-01T00:00:00Z&startKey={key}") == refused
    assert await code(f"{kept}&order=asc&startKey={key}") == refused
    assert await code(f"chatId={ROOM}&fromSequence=1&startKey={key}") == refused
    for place in (0, len(key) // 2, len(key) - 1):
        altered = key[:place] + ("B" if key[place] != "B" else "C") + key[place + 1 :]
        assert await code(f"{kept}&startKey={altered}") == refused
    for forged in ("", "x", "e30", "a" * 2_000, "%C3%A9", key + "=", key + "%0A"):
        assert await code(f"{kept}&startKey={forged}") == refused
    permissions = await doors.ask("GET", f"/permissions?chatId={ROOM}&startKey={key}")
    assert problem_of(permissions) == refused


PLACES = st.text(st.characters(codec="utf-8"), max_size=20)
QUESTIONS: st.SearchStrategy[Question] = st.lists(
    st.one_of(st.none(), st.integers(-(1 << 60), 1 << 60), PLACES), max_size=4
).map(tuple)


@given(PLACES, QUESTIONS, QUESTIONS)
def test_cursors_open_for_what_they_were_sealed_for_and_nothing_else(
    place: str, asked: Question, other: Question
) -> None:
    cursors = Cursors(b"k" * 32)
    sealed = cursors.seal(place, asked)
    assert cursors.open(sealed, asked) == place
    if other != asked:
        with pytest.raises(Refusal):
            cursors.open(sealed, other)
    with pytest.raises(Refusal):
        Cursors(b"o" * 32).open(sealed, asked)


# -- permissions -------------------------------------------------------------------------------------------------------


async def test_permissions_are_granted_listed_and_revoked(doors: Doors) -> None:
    granted = await doors.ask("POST", "/permissions", {"userId": "alice", "chatId": ROOM, "role": "owner"})
    row = body_of(granted)
    assert set(row) == {"userId", "chatId", "role", "grantedBy", "grantedAt"}
    assert (row["role"], row["grantedBy"]) == ("owner", BACK_END)
    again = await doors.ask("POST", "/permissions", {"userId": "alice", "chatId": ROOM, "role": "owner"})
    assert body_of(again) == row
    for user in ("bob", "carol", "dave"):
        await doors.grant(user, ROOM, "member")
    seen: list[object] = []
    following = ""
    while True:
        page = msgspec.json.decode(
            (await doors.ask("GET", f"/permissions?chatId={ROOM}&limit=3{following}", user="alice")).content
        )
        seen += [each["userId"] for each in page["permissions"]]
        if page["nextStartKey"] is None:
            break
        following = f"&startKey={page['nextStartKey']}"
    assert seen == ["alice", "bob", "carol", "dave"]
    both = body_of(await doors.ask("GET", f"/permissions?chatId={ROOM}&userId=alice"))
    assert both == {"permissions": [row], "nextStartKey": None}
    own = body_of(await doors.ask("GET", "/permissions?userId=alice", user="alice"))
    assert own == both

    await doors.publish(ROOM)
    first = await doors.ask("DELETE", f"/permissions?userId=bob&chatId={ROOM}", user="alice")
    assert body_of(first) == {"userId": "bob", "chatId": ROOM, "fenceSequence": 1}
    await doors.publish(ROOM)
    assert body_of(await doors.ask("DELETE", f"/permissions?userId=bob&chatId={ROOM}")) == body_of(first)
    last = await doors.ask("DELETE", f"/permissions?userId=alice&chatId={ROOM}")
    assert problem_of(last) == (409, "last_owner", None)
    never = await doors.ask("DELETE", f"/permissions?userId=nobody&chatId={ROOM}")
    assert problem_of(never) == (404, "not_found", None)
    others = await doors.ask("GET", "/permissions?userId=bob", user="alice")
    assert problem_of(others)[:2] == (403, "forbidden")
    assert "chat" not in str(body_of(others)["message"]), "none was named"
    assert problem_of(await doors.ask("GET", f"/messages?chatId={ROOM}", user="bob"))[:2] == (403, "forbidden")


async def test_who_is_not_allowed_hears_the_same_whether_the_chat_exists_or_not(doors: Doors) -> None:
    await doors.publish(ROOM)
    answers = [await doors.ask("GET", f"/messages?chatId={chat}", user="alice") for chat in (ROOM, "nowhere")]
    assert [problem_of(answer) for answer in answers] == [(403, "forbidden", None)] * 2
    assert len({body_of(answer)["message"] for answer in answers}) == 1


# -- metrics, tickets, connections -------------------------------------------------------------------------------------


async def test_clients_metrics_are_counted(doors: Doors) -> None:
    report = {"metrics": [{"name": "connect_time", "value": 12.5, "unit": "milliseconds", "dimensions": {"os": "x"}}]}
    answer = await doors.ask("POST", "/metrics", report, user="alice")
    assert (answer.status_code, answer.content) == (202, b"")
    assert 'tocsin_client_total{name="connect_time"} 12.5' in doors.engine.metrics.expose().decode()
    for number in ("1e999", "9" * 400, "NaN"):
        body = b'{"metrics":[{"name":"connect_time","value":%b}]}' % number.encode()
        assert problem_of(await doors.ask("POST", "/metrics", body, user="alice"))[0] == 400


async def test_a_ticket_opens_one_connection_to_its_chats(doors: Doors) -> None:
    await doors.grant("alice", ROOM, "reader")
    for body in (None, {"chatIds": [ROOM]}):
        answer = body_of(await doors.ask("POST", "/tickets", body, user="alice"))
        assert answer["expiresIn"] == 60
        for status in (101, 401):
            peer = await doors.connect()
            response = await peer.upgrade(f"/dvl?ticket={answer['ticket']}&chatId={ROOM}")
            assert response.status == status


async def test_a_connection_is_shown_written_to_and_closed(doors: Doors) -> None:
    await doors.grant("alice", ROOM, "reader")
    peer = await doors.connect()
    token = doors.token("alice")
    head = f"Authorization: Bearer {token}\r\nUser-Agent: a test\r\n"
    assert (await peer.upgrade(f"/dvl?chatId={ROOM}", head)).status == 101
    connection_id = msgspec.json.decode((await peer.frame())[1])["connectionId"]
    target = f"/@connections/{connection_id}"

    shown = body_of(await doors.ask("GET", target))
    assert set(shown) == {"connectedAt", "lastActiveAt", "identity"}
    assert shown["identity"] == {"sourceIp": "127.0.0.1", "userAgent": "a test"}
    assert parse_rfc3339(str(shown["connectedAt"])) <= parse_rfc3339(str(shown["lastActiveAt"]))

    sent = await doors.ask("POST", target, "not JSON, but text: é".encode(), headers={"content-type": "text/plain"})
    assert (sent.status_code, sent.content) == (200, b"")
    assert await peer.frame() == (1, "not JSON, but text: é".encode())
    encoded = target.replace(connection_id, "".join(f"%{byte:02X}" for byte in connection_id.encode()))
    assert (await doors.ask("POST", encoded, b"x" * 131_072)).status_code == 200
    assert (await peer.frame())[1] == b"x" * 131_072

    async def refused(method: str, body: bytes | None = None, user: str = BACK_END) -> tuple[object, object]:
        answer = await doors.ask(method, target, body, user=user)
        return problem_of(answer)[:2], answer.headers["x-amzn-errortype"]

    assert await refused("POST", b"x" * 131_073) == ((413, "message_too_large"), "PayloadTooLargeException")
    for nothing in (None, b""):
        assert await refused("POST", nothing) == ((400, "bad_request"), "BadRequestException")
    assert await refused("POST", b"\xff") == ((400, "unsupported_data"), "BadRequestException")
    assert await refused("POST", b"x", "alice") == ((403, "forbidden"), "ForbiddenException")
    assert await refused("PUT", b"x") == ((405, "method_not_allowed"), "BadRequestException")
    closed = await doors.ask("DELETE", target)
    assert (closed.status_code, closed.content) == (204, b"")
    assert "content-length" not in closed.headers
    assert await peer.close_code() == 1000
    for method, body in (("POST", b"x"), ("GET", None), ("DELETE", None)):
        assert await refused(method, body) == ((410, "gone"), "GoneException")


# -- order, credentials, form ------------------------------------------------------------------------------------------


async def test_refusals_come_in_their_order(doors: Doors) -> None:
    """Each request has this fault and all that are named after it."""
    large = b"{" * 131_073
    text = {"content-type": "text/plain"}

    async def code(method: str, target: str, body: bytes | None = None, **more: object) -> object:
        return problem_of(await doors.ask(method, target, body, **more))[:2]  # type: ignore[arg-type]

    assert await code("PUT", "/nothing?x", large, user=None, headers=text) == (404, "not_found")
    assert await code("PUT", "/publish?x", large, user=None, headers=text) == (405, "method_not_allowed")
    assert await code("POST", "/publish?x", large, user=None, headers=text) == (401, "unauthorized")
    assert await code("POST", "/publish?x", large, headers=text) == (415, "unsupported_media_type")
    assert await code("POST", "/publish?x", large) == (413, "message_too_large")
    forbidden = msgspec.json.encode(entry("not-hers"))
    assert await code("POST", "/publish?x", forbidden, user="alice") == (400, "invalid_argument")
    assert await code("POST", "/publish", b"{" + forbidden, user="alice") == (400, "invalid_json")
    assert await code("POST", "/publish", forbidden, user="alice") == (403, "forbidden")
    assert await code("GET", "", user=None) == (401, "unauthorized")
    assert await code("GET", "?chatId=a%20b&lastSequence=x") == (400, "invalid_argument")
    assert await code("GET", "?chatId=not-hers", user="alice") == (403, "forbidden")
    assert await code("GET", "?anything=1", user="alice") == (426, "upgrade_required")


async def test_what_lacks_only_the_upgrade_is_told_so(doors: Doors) -> None:
    answer = await doors.ask("GET", "", user="alice")
    assert problem_of(answer) == (426, "upgrade_required", None)
    assert answer.headers["upgrade"] == "websocket"
    by_query = await doors.ask("GET", f"?token={doors.token('alice')}&userId=alice", user=None)
    assert by_query.status_code == 426
    assert problem_of(await doors.ask("GET", "?ticket=unheard-of", user="alice")) == (401, "invalid_ticket", None)


HEAD = upgrade_head()
#: An upgrade that is odd -> what is due once it is known who asks: status, code, field.
ODD_UPGRADES = {
    "none": (b"GET /dvl HTTP/1.1\r\nHost: localhost\r\n\r\n", 426, "upgrade_required", None),
    "HTTP/1.0": (HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"), 426, "upgrade_required", None),
    "an older version, and blanks": (
        HEAD.replace(b"13", b"8").replace(b"==", b"== \t"),
        426,
        "upgrade_required",
        "Sec-WebSocket-Version",
    ),
    "another protocol": (HEAD.replace(b"Upgrade: websocket", b"Upgrade: h2c"), 426, "upgrade_required", None),
    "two protocols": (upgrade_head(extra="Upgrade: h2c\r\n"), 426, "upgrade_required", None),
    "no option": (HEAD.replace(b"Connection: Upgrade", b"Connection: close"), 426, "upgrade_required", None),
    "an older version": (HEAD.replace(b"13", b"8"), 426, "upgrade_required", "Sec-WebSocket-Version"),
    "no version": (HEAD.replace(b"Sec-WebSocket-Version", b"X"), 426, "upgrade_required", "Sec-WebSocket-Version"),
    "two versions": (upgrade_head(extra="Sec-WebSocket-Version: 13\r\n"), 400, "bad_request", "Sec-WebSocket-Version"),
    "no key": (HEAD.replace(b"Sec-WebSocket-Key", b"X-Key"), 400, "bad_request", "Sec-WebSocket-Key"),
    "two keys": (upgrade_head(extra=f"Sec-WebSocket-Key: {KEY}\r\n"), 400, "bad_request", "Sec-WebSocket-Key"),
    "an empty key": (HEAD.replace(KEY.encode(), b""), 400, "bad_request", "Sec-WebSocket-Key"),
    "a short key": (HEAD.replace(KEY.encode(), b"AAAAAAAA"), 400, "bad_request", "Sec-WebSocket-Key"),
    "no base64": (HEAD.replace(KEY.encode(), b"?" * 24), 400, "bad_request", "Sec-WebSocket-Key"),
    "no key, no version": (
        HEAD.replace(b"Sec-WebSocket-Key", b"X-Key").replace(b"13", b"8"),
        400,
        "bad_request",
        "Sec-WebSocket-Key",
    ),
    "a body": (upgrade_head(extra="Content-Length: 1\r\n") + b"x", 400, "bad_request", "Content-Length"),
    "chunks": (
        upgrade_head(extra="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        400,
        "bad_request",
        "Transfer-Encoding",
    ),
    "an expectation": (upgrade_head(extra="Expect: nothing\r\n"), 400, "bad_request", "Expect"),
    "a target that is a URL": (HEAD.replace(b"GET /", b"GET http://localhost/"), 400, "bad_request", None),
}


@pytest.mark.parametrize("what", ODD_UPGRADES)
async def test_an_odd_upgrade_is_told_what_is_odd_after_401_and_426_last(doors: Doors, what: str) -> None:
    head, *due = ODD_UPGRADES[what]

    async def answer(query: str, authorization: str) -> tuple[Response, list[object]]:
        peer = await doors.connect()
        sent = head.replace(b"/dvl", b"/dvl?" + query.encode()).replace(b"Host", authorization.encode() + b"Host")
        await peer.send(sent)
        response = await peer.response()
        body = msgspec.json.decode(response.body)
        return response, [response.status, body["code"], body.get("field")]

    authorization = f"Authorization: Bearer {doors.token('alice')}\r\n"
    response, told = await answer("", authorization)
    assert told == due
    wanted = [response.headers.get(name) for name in ("upgrade", "sec-websocket-version")]
    assert wanted == (["websocket", "13"] if response.status == 426 else [None, None])
    _, unknown = await answer("", "")
    assert unknown == [401, "unauthorized", None]
    _, forbidden = await answer("chatId=not-hers", authorization)
    assert forbidden == ([403, "forbidden", None] if response.status == 426 else due)


async def test_with_or_without_an_upgrade_401_comes_before_a_parameter_that_comes_twice(doors: Doors) -> None:
    token = doors.token("alice")

    async def both(query: str) -> tuple[int, object, object]:
        request = problem_of(await doors.ask("GET", f"?{query}", user=None))
        upgrade = await (await doors.connect()).upgrade(f"/dvl?{query}")
        body = msgspec.json.decode(upgrade.body)
        assert request == (upgrade.status, body["code"], body.get("field"))
        return request

    twice = "userId=alice&userId=alice"
    assert await both(twice) == (401, "unauthorized", None)
    assert await both(f"token=a.b.c&{twice}") == (401, "invalid_token", None)
    assert await both("ticket=x&ticket=x") == (401, "invalid_ticket", None)
    assert await both(f"ticket=x&ticket=y&token={token}") == (401, "invalid_ticket", None)
    for first in ("a.b.c", "", "x" * 9_000):
        assert await both(f"token={first}&token={token}") == (401, "invalid_token", None), "the first counts"
    old = doors.token("alice", ago=7_200)
    assert await both(f"token={old}&token={token}") == (401, "token_expired", None), "the first counts"
    for doubled, field in (
        (twice, "userId"),
        ("epoch=a&epoch=a", "epoch"),
        ("chatId=a&lastSequence=1&lastSequence=1", "lastSequence"),
        (f"token={token}", "token"),
        ("token=a.b.c", "token"),
        ("token=", "token"),
        ("chatId=not-hers&userId=bob&epoch=a&epoch=b", "epoch"),
    ):
        assert await both(f"token={token}&{doubled}") == (400, "invalid_argument", field)

    ticket = body_of(await doors.ask("POST", "/tickets", user="alice"))["ticket"]
    target = f"/dvl?ticket={ticket}&ticket={ticket}"
    assert [(await (await doors.connect()).upgrade(target)).status for _ in range(2)] == [400, 401], "it is spent"


async def test_there_is_one_way_to_say_who_one_is(doors: Doors) -> None:
    target = f"/dvl/messages?chatId={ROOM}"

    async def answer(*values: str, query: str = "") -> tuple[int, object]:
        peer = await doors.connect()
        lines = "".join(f"Authorization: {value}\r\n" for value in values)
        await peer.send(f"GET {target}{query} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        response = await peer.response()
        assert (response.status == 401) == (response.headers.get("www-authenticate") == "Bearer")
        return response.status, msgspec.json.decode(response.body).get("code")

    token = doors.token(BACK_END, "messages:read")
    for good in (f"Bearer {token}", f"bearer {token}", f"BEARER  {token}"):
        assert await answer(good) == (200, None)
    assert await answer(f"Bearer {token}", f"Bearer {token}") == (400, "bad_request")
    for other in ("", "Bearer", "Bearer ", f"Basic {token}", token):
        assert await answer(other) == (401, "unauthorized")
    assert await answer() == (401, "unauthorized")
    assert await answer(query=f"&token={token}") == (401, "unauthorized")
    for bad in ("a", "a.b.c", token + "=", token[:-4], token + "é", "a" * 9_000):
        assert await answer(f"Bearer {bad}") == (401, "invalid_token")
    old = doors.token(BACK_END, "messages:read", ago=7_200)
    assert await answer(f"Bearer {old}") == (401, "token_expired")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "chatId"),
        ("chatId=", "chatId"),
        ("chatId=a%20b", "chatId"),
        ("chatId=a%0A", "chatId"),
        ("chatId=" + "a" * 129, "chatId"),
        ("chatId=%FF", "chatId"),
        ("chatId=a&chatId=a", "chatId"),
        ("chatId=a&ch%61tId=a", "chatId"),
        ("chatId=a&colour=1", "colour"),
        ("chatId=a&limit=0", "limit"),
        ("chatId=a&limit=1001", "limit"),
        ("chatId=a&limit=1.0", "limit"),
        ("chatId=a&limit=+5", "limit"),
        ("chatId=a&limit=٣", "limit"),
        ("chatId=a&limit=" + "9" * 400, "limit"),
        ("chatId=a&limit=null", "limit"),
        ("chatId=a&fromSequence=-1", "fromSequence"),
        ("chatId=a&toSequence=", "toSequence"),
        ("chatId=a&fromSequence=null", "fromSequence"),
        ("chatId=a&fromSequence=3&toSequence=2", "fromSequence"),
        ("chatId=a&fromSequence=3&order=desc", "order"),
        ("chatId=a&fromSequence=3&fromTimestamp=" + NEVER, "fromTimestamp"),
        ("chatId=a&toSequence=3&toTimestamp=" + NEVER, "toTimestamp"),
        ("chatId=a&order=up", "order"),
        ("chatId=a&fromTimestamp=yesterday", "fromTimestamp"),
        ("chatId=a&fromTimestamp=2026-02-30T00:00:00Z", "fromTimestamp"),
        ("chatId=a&fromTimestamp=2026-01-01T00:00:00", "fromTimestamp"),
        ("chatId=a&toTimestamp=2026-01-01T00:00:00%2B99:99", "toTimestamp"),
        ("chatId=a&fromTimestamp=2026-01-02T00:00:00Z&toTimestamp=2026-01-01T00:00:00Z", "fromTimestamp"),
    ],
)
async def test_a_query_is_read_strictly(doors: Doors, query: str, field: str) -> None:
    assert problem_of(await doors.ask("GET", f"/messages?{query}")) == (400, "invalid_argument", field)


@pytest.mark.parametrize("number", ["abc", "", "-1", "1.5", "+1", "1e3", "0x1", "null", "9" * 19, "9" * 400])
@pytest.mark.parametrize(
    ("target", "field", "least", "most"),
    [
        ("/messages?chatId=a&limit=", "limit", 1, 1_000),
        ("/permissions?chatId=a&limit=", "limit", 1, 1_000),
        ("/messages?chatId=a&fromSequence=", "fromSequence", 0, 10**18 - 1),
        ("/messages?chatId=a&toSequence=", "toSequence", 0, 10**18 - 1),
        ("?chatId=a&lastSequence=", "lastSequence", 0, 10**18 - 1),
    ],
)
async def test_a_wrong_number_is_told_which_it_is_and_what_is_allowed(
    doors: Doors, target: str, field: str, least: int, most: int, number: str
) -> None:
    for wrong in (number, str(least - 1), str(most + 1)):
        answer = await doors.ask("GET", f"{target}{wrong}")
        assert problem_of(answer) == (400, "invalid_argument", field)
        assert body_of(answer)["message"] == f"{field} must be a whole number from {least} to {most}."


async def test_odd_times_that_are_times_are_taken(doors: Doors) -> None:
    for time in ("0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59.999999999-23:59", "2026-01-01t00:00:00z"):
        for name in ("fromTimestamp", "toTimestamp"):
            assert (await doors.ask("GET", f"/messages?chatId=a&{name}={time}")).status_code == 200, time


@pytest.mark.parametrize(
    ("target", "body", "field"),
    [
        ("/permissions", {"userId": "x", "chatId": "y"}, "role"),
        ("/permissions", {"userId": "x", "chatId": "y", "role": "king"}, "role"),
        ("/permissions", {"userId": "x" * 121, "chatId": "y", "role": "owner"}, "userId"),
        ("/permissions", {"userId": "x", "chatId": "y\n", "role": "owner"}, "chatId"),
        ("/permissions", {"userId": "x", "chatId": "y", "role": "owner", "colour": 1}, "colour"),
        ("/metrics", {"metrics": []}, "metrics"),
        ("/metrics", {"metrics": [{"name": "connect_time", "value": 1}] * 101}, "metrics"),
        ("/metrics", {"metrics": [{"name": "unheard-of", "value": 1}]}, "metrics[0].name"),
        ("/tickets", {"chatIds": ["a", "b c"]}, "chatIds[1]"),
        ("/tickets", {"chatIds": ["a"] * 301}, "chatIds"),
        ("/tickets", {"chatIds": None}, "chatIds"),
        ("/tickets", {"chats": []}, "chats"),
        ("/tickets", [], None),
        ("/publish", [], None),
        ("/publish", {"payload": "x"}, "payload"),
        ("/publish", ENTRY | {"colour": 1}, "colour"),
        ("/publish", ENTRY | {"messageType": "lifo"}, "messageType"),
        ("/publish", entry(content=None), "payload.content"),
        ("/publish", entry("a b"), "payload.chatId"),
    ],
)
async def test_a_body_is_read_strictly(doors: Doors, target: str, body: object, field: str | None) -> None:
    assert problem_of(await doors.ask("POST", target, body)) == (400, "invalid_argument", field)


async def test_parameters_where_none_are_known_are_refused(doors: Doors) -> None:
    for method, target in (
        ("POST", "/publish"),
        ("POST", "/publish/batch"),
        ("POST", "/permissions"),
        ("POST", "/metrics"),
        ("POST", "/tickets"),
        ("POST", "/@connections/x"),
        ("GET", "/@connections/x"),
        ("DELETE", "/@connections/x"),
        ("GET", "/openapi.json"),
    ):
        body = b"{}" if method == "POST" else None
        assert problem_of(await doors.ask(method, f"{target}?colo%75r=1", body)) == (400, "invalid_argument", "colour")
    neither = await doors.ask("GET", "/permissions?limit=5")
    assert problem_of(neither) == (400, "invalid_argument", "userId")


async def test_bodies_are_json_uncompressed_and_bounded(doors: Doors) -> None:
    body = msgspec.json.encode(ENTRY)
    for good in ({}, {"content-type": "application/json"}, {"content-type": "Application/JSON ; charset=utf-8"}):
        assert (await doors.ask("POST", "/publish", body, headers=good)).status_code == 202
    for bad in ({"content-type": "text/json"}, {"content-type": ""}, {"content-encoding": "gzip"}):
        answer = await doors.ask("POST", "/publish", body, headers=bad)
        assert problem_of(answer) == (415, "unsupported_media_type", None)
    room = 131_072 - len(msgspec.json.encode(ENTRY))
    too_large_when_delivered = await doors.ask("POST", "/publish", entry(content="x" * room))
    assert problem_of(too_large_when_delivered)[:2] == (413, "message_too_large")
    peer = await doors.connect()
    head = f"POST /dvl/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {doors.token('alice')}\r\n"
    await peer.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + (b"8000\r\n" + b" " * 32_768 + b"\r\n") * 5)
    assert (await peer.response()).status == 413, "refused before its end"
    for deep in (b"[" * 33 + b"]" * 33, b"[" * 100_000):
        content = body.replace(b'"x"', deep)
        assert problem_of(await doors.ask("POST", "/publish", content))[:2] == (400, "invalid_json")


async def test_every_answer_has_a_request_id_and_a_clients_own_is_taken_over(doors: Doors) -> None:
    for given_id, is_kept in (("mine 1!", True), ("x" * 128, True), ("x" * 129, False), ("", False), ("a\tb", False)):
        for target in (f"/messages?chatId={ROOM}", "/nothing"):
            answer = await doors.ask("GET", target, headers={"x-request-id": given_id})
            assert (answer.headers["x-request-id"] == given_id) == is_kept
            assert answer.headers["x-request-id"]


async def test_head_is_get_without_its_body_and_options_tell_what_is_allowed(doors: Doors) -> None:
    for target in (f"/messages?chatId={ROOM}", "/openapi.json", "/nothing", ""):
        got, head = await doors.ask("GET", target), await doors.ask("HEAD", target)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    assert (await doors.ask("HEAD", "/publish")).headers["allow"] == "OPTIONS, POST"
    for target, allowed in (
        ("/permissions", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/@connections/x", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/publish", "OPTIONS, POST"),
        ("", "GET, HEAD, OPTIONS"),
    ):
        answer = await doors.ask("OPTIONS", target, user=None)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allowed, b"")
        for method in ("PATCH", "BREW"):
            refused = await doors.ask(method, target, b"x", user=None)
            assert problem_of(refused) == (405, "method_not_allowed", None)
            assert refused.headers["allow"] == allowed
    for method in ("OPTIONS", "BREW"):
        assert (await doors.ask(method, "/nothing", user=None)).status_code == 404


async def test_only_a_listed_origin_may_read_answers(doors: Doors) -> None:
    target = f"/messages?chatId={ROOM}"
    preflight = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    asked = await doors.ask("OPTIONS", target, user=None, headers={"origin": ORIGIN, **preflight})
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert "GET" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == ALLOWED_HEADERS.decode()
    for user in (BACK_END, None):
        answer = await doors.ask("GET", target, user=user, headers={"origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"
    for other in ("https://app.example.com.evil.com", "http://app.example.com", ORIGIN + "/", ORIGIN.upper(), "null"):
        for method in ("OPTIONS", "GET"):
            answer = await doors.ask(method, target, headers={"origin": other, **preflight})
            assert answer.headers["vary"] == "Origin"
            assert not [name for name in answer.headers if name.startswith("access-control")]


# -- the whole ---------------------------------------------------------------------------------------------------------


async def test_every_route_is_served_and_needs_a_token_unless_it_is_public(doors: Doors) -> None:
    for route in ROUTES:
        target = route.path.replace("{connectionId}", "x")
        answer = await doors.ask(route.method, target, user=None)
        assert answer.status_code == (200 if route.public else 401), route.operation


async def test_a_defect_is_answered_500_and_its_text_is_neither_told_nor_logged(
    tmp_path: Path, keys: FileKeys, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(tmp_path, keys, failpoints="publish.before_ack=raise") as doors:
        answer = await doors.ask("POST", "/publish", entry(content="private"), headers={"x-request-id": "find-me"})
        assert problem_of(answer) == (500, "internal", None)
        assert "Traceback" not in answer.text
        assert refusals(doors)["internal"] == 1
    printed = capsys.readouterr()
    log = printed.out + printed.err
    assert "find-me" in log
    assert "FailpointError" in log
    assert "private" not in log
    assert doors.token(BACK_END) not in log


async def test_a_client_that_leaves_amid_its_body_leaves_nothing_behind(doors: Doors) -> None:
    peer = await doors.connect()
    head = f"POST /dvl/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {doors.token(BACK_END, 'publish:any')}\r\n"
    whole = msgspec.json.encode(ENTRY)
    await peer.send(head.encode() + b"Content-Length: %d\r\n\r\n" % (len(whole) + 1) + whole)
    peer.vanish()
    while doors.front.uvicorn.tasks:
        await asyncio.wait(doors.front.uvicorn.tasks)
    assert await pages(doors, f"chatId={ROOM}") == [[]]


async def test_refusals_are_counted_once_by_code(doors: Doors) -> None:
    await doors.ask("GET", "/nothing")
    await doors.ask("POST", "/publish", b"{")
    await doors.ask("POST", "/publish", entry("a b"))
    await doors.ask("POST", "/publish", {**ENTRY, "messageDeduplicationId": "a"}, headers={"idempotency-key": "b"})
    await doors.ask("GET", "/permissions", user=None)
    await (await doors.connect()).upgrade("/dvl?token=a.b.c")
    await (await doors.connect()).send(b"no HTTP at all")
    counted = {"not_found": 1, "invalid_json": 1, "invalid_argument": 2, "unauthorized": 1}
    await eventually(lambda: refusals(doors) == {**counted, "invalid_token": 1, "bad_request": 1})
    assert set(refusals(doors)) <= set(STATUS)
