"""The nine functions, event in and result out, on an embedded engine: what they say is what the embedded service says.

(On SNS, SQS and DynamoDB: test_aws_functions.py. Every form of an event: tests/gateways/test_aws_events.py.)
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import pytest

from tests.conformance.harness import Client, Options, identity
from tests.conformance.management_api import TOO_LARGE
from tests.gateways.lambda_events import CLAIMS, CONNECTION, DIALECTS, Aws, Json
from tests.ministack import Stage
from tests.profiles.stand import ORIGIN, AwsFunctions, EmbeddedFunctions, Functions
from tocsin.engines.aws.settings import FUNCTIONS, Function
from tocsin.engines.file_keys import FileKeys
from tocsin.gateways.aws_routes import EACH_MINUTE, ENTRY_POINTS, REST_ROUTES, WEBSOCKET_ROUTES
from tocsin.gateways.routes import ROUTES
from tocsin.message import MAX_MESSAGE_BYTES
from tocsin.profiles import aws


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("keys"))


Kind = TypeVar("Kind", bound=Functions)


@asynccontextmanager
async def started(functions: Kind) -> AsyncIterator[Kind]:
    await functions.start()
    try:
        yield functions
    finally:
        await functions.stop()


@pytest.fixture
async def one(tmp_path: Path, files: FileKeys) -> AsyncIterator[EmbeddedFunctions]:
    """For what depends neither on an event's form nor on the engine."""
    async with started(EmbeddedFunctions(tmp_path, files)) as functions:
        yield functions


def name_of(dialect: Aws | None) -> str | None:
    return None if dialect is None else dialect.name


@pytest.fixture(params=DIALECTS, ids=name_of)
async def both(request: pytest.FixtureRequest, tmp_path: Path, files: FileKeys) -> AsyncIterator[EmbeddedFunctions]:
    """In both forms of an event."""
    made = EmbeddedFunctions(tmp_path, files)
    made.dialect = request.param
    async with started(made) as functions:
        yield functions


@pytest.fixture(params=[*DIALECTS, pytest.param(None, marks=pytest.mark.slow, id="dynamodb")], ids=name_of)
async def stand(request: pytest.FixtureRequest, tmp_path: Path, files: FileKeys) -> AsyncIterator[Functions]:
    """In both forms of an event on the embedded engine, and on AWS's."""
    made: Functions
    if request.param is None:
        made = AwsFunctions(request.getfixturevalue("make_stage")(), files)
    else:
        made = EmbeddedFunctions(tmp_path, files)
        made.dialect = request.param
    async with started(made) as functions:
        yield functions


#: What Lambda takes, and hands back.
LAMBDA_BYTES: Final = 6 * 1024 * 1024
READER: Final = CLAIMS | {"scope": "tocsin/messages:read"}


def fifo(chat: str, content: object = "hello", **more: object) -> Json:
    return {"messageType": "fifo", "payload": {"chatId": chat, "eventType": "chat", "content": content}} | more


# -- the tables --------------------------------------------------------------------------------------------------------


def test_every_function_has_an_entry_point_and_every_entry_point_a_function() -> None:
    assert set(ENTRY_POINTS) == set(FUNCTIONS)
    entries = {name for name, value in vars(aws).items() if isinstance(value, aws.EntryPoint)}
    assert entries == set(ENTRY_POINTS.values())


def test_every_route_is_served_by_one_function_that_there_is() -> None:
    assert {*WEBSOCKET_ROUTES.values(), *REST_ROUTES.values(), EACH_MINUTE} <= set(FUNCTIONS)
    served = {(route.method, route.path) for route in ROUTES}
    assert set(REST_ROUTES) == {pair for pair in served if pair[1] and not pair[1].startswith("/@connections")}


# -- REST --------------------------------------------------------------------------------------------------------------


async def test_what_is_published_is_read_in_both_forms_of_events(stand: Functions) -> None:
    status, _, granted = await stand.rest(
        "chat-permission", "POST", "/permissions", {"userId": "alice", "chatId": "c1", "role": "member"}
    )
    assert (status, granted["role"]) == (200, "member")
    status, headers, published = await stand.rest(
        "a2pHttpPublisher", "POST", "/publish", fifo("c1"), user="alice", scopes=()
    )
    assert (status, published["duplicate"]) == (202, False)
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == "e43a8f2a-xmpl-4f0c-8f0a-9b5d2a9d1a2b"
    assert "content-length" not in headers
    await stand.settle()
    status, _, page = await stand.rest(
        "message-retrieval", "GET", "/messages", query="chatId=c1", user="alice", scopes=()
    )
    assert status == 200
    assert [(one["messageId"], one["sequenceNumber"]) for one in page["messages"]] == [(published["messageId"], 1)]
    status, _, rows = await stand.rest("chat-permission", "GET", "/permissions", query="chatId=c1")
    assert [row["userId"] for row in rows["permissions"]] == ["alice"]
    status, _, gone = await stand.rest("chat-permission", "DELETE", "/permissions", query="userId=alice&chatId=c1")
    assert (status, gone["fenceSequence"]) == (200, 1)
    status, _, refused = await stand.rest("a2pHttpPublisher", "POST", "/publish", fifo("c1"), user="alice", scopes=())
    assert (status, refused["code"]) == (403, "forbidden")


async def test_a_client_has_its_own_request_id_back(stand: Functions) -> None:
    _, headers, _ = await stand.rest("metric-collector", "GET", "/openapi.json", headers=[("X-Request-Id", "mine")])
    assert headers["x-request-id"] == "mine"


async def test_a_payload_is_carried_as_its_bytes(one: EmbeddedFunctions) -> None:
    body = b'{"payload":{"chatId":"c1","eventType":"e","content":{"n":1e400,"b":2,"a":"\\u00fc\xc3\xbc"}}}'
    status, _, _ = await one.rest("a2pHttpPublisher", "POST", "/publish", body)
    assert status == 202
    event = one.dialect.rest("GET", "/messages", query="chatId=c1", claims=CLAIMS | {"scope": "tocsin/messages:read"})
    text = (await one.call("message-retrieval", event))["body"]
    assert '"content":{"n":1e400,"b":2,"a":"\\u00fcü"}' in text


@pytest.mark.parametrize(
    ("function", "method", "resource", "body", "query", "status", "code"),
    [
        ("a2pHttpPublisher", "POST", "/publish", b'{"a":1,"a":2}', "", 400, "invalid_json"),
        ("a2pHttpPublisher", "POST", "/publish", b"\xff", "", 400, "invalid_json"),
        ("a2pHttpPublisher", "POST", "/publish", b"x" * (MAX_MESSAGE_BYTES + 1), "", 413, "message_too_large"),
        ("a2pHttpPublisher", "POST", "/publish/batch", b" " * (4 * 1024 * 1024 + 1), "", 413, "message_too_large"),
        ("a2pHttpPublisher", "POST", "/publish", b"{}", "x=1", 400, "invalid_argument"),
        ("message-retrieval", "GET", "/messages", None, "chatId=c1&startKey=made-up", 400, "invalid_cursor"),
        ("message-retrieval", "GET", "/messages", None, "chatId=c1&chatId=c2", 400, "invalid_argument"),
        ("message-retrieval", "POST", "/messages", b"{}", "", 405, "method_not_allowed"),
        ("message-retrieval", "GET", "/permissions", None, "", 404, "not_found"),
        ("metric-collector", "POST", "/metrics", b'{"metrics":[]}', "", 400, "invalid_argument"),
    ],
)
async def test_what_is_wrong_is_refused_as_everywhere(
    one: EmbeddedFunctions,
    function: Function,
    method: str,
    resource: str,
    body: bytes | None,
    query: str,
    status: int,
    code: str,
) -> None:
    answer, headers, problem = await one.rest(function, method, resource, body, query=query)
    assert (answer, problem["code"]) == (status, code)
    assert problem["requestId"] == headers["x-request-id"]


async def test_only_an_access_token_of_ours_counts(stand: Functions) -> None:
    async def refused(claims: Json | None) -> str:
        status, headers, problem = await stand.rest(
            "message-retrieval", "GET", "/messages", query="chatId=c1", claims=claims
        )
        assert status == 401
        assert headers["www-authenticate"] == "Bearer"
        return str(problem["code"])

    assert await refused(None) == "unauthorized"
    assert await refused(CLAIMS | {"token_use": "id", "aud": "web"}) == "invalid_token"
    assert await refused({name: value for name, value in CLAIMS.items() if name != "token_use"}) == "invalid_token"
    assert await refused(CLAIMS | {"client_id": "another"}) == "invalid_token"
    assert await refused(CLAIMS | {"iss": "https://another.example.com"}) == "invalid_token"
    assert await refused(CLAIMS | {"exp": CLAIMS["exp"] - 7200}) == "token_expired"


async def test_a_scope_counts_with_its_prefix_and_a_group_too(stand: Functions) -> None:
    async def publishes(claims: Json) -> int:
        event = stand.dialect.rest("POST", "/publish", body=msgspec.json.encode(fifo("c1")), claims=CLAIMS | claims)
        return int((await stand.call("a2pHttpPublisher", event))["statusCode"])

    assert await publishes({"scope": "tocsin/publish:any openid"}) == 202
    assert await publishes({"scope": "publish:any"}) == 403
    assert await publishes({"cognito:groups": ["staff", "tocsin/publish:any"]}) == 202


async def test_a_machine_is_its_client_id(stand: Functions) -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != "username"} | {"client_id": "back-end"}
    status, _, _ = await stand.rest("a2pHttpPublisher", "POST", "/publish", fifo("c1"), claims=claims)
    assert status == 202
    await stand.settle()
    page = await stand.engine.messages.by_number("c1", 1, 9, 9)
    assert msgspec.json.decode(page.bodies[0])["senderId"] == "back-end"


async def test_a_repeated_id_has_the_first_receipt_back(stand: Functions) -> None:
    headers = [("Idempotency-Key", "k1")]
    _, _, first = await stand.rest("a2pHttpPublisher", "POST", "/publish", fifo("c1"), headers=headers)
    _, _, again = await stand.rest("a2pHttpPublisher", "POST", "/publish", fifo("c1"), headers=headers)
    assert again == first | {"duplicate": True}
    status, _, problem = await stand.rest("a2pHttpPublisher", "POST", "/publish", fifo("c1", "other"), headers=headers)
    assert (status, problem["code"]) == (409, "idempotency_conflict")


async def test_a_batch_is_answered_entry_by_entry(stand: Functions) -> None:
    entries = [fifo("c1", 1), fifo("c1", 2, messageType="none"), fifo("c1", 3), fifo("c2", 4)]
    status, _, answer = await stand.rest("a2pHttpPublisher", "POST", "/publish/batch", {"messages": entries})
    assert status == 200
    codes = [result.get("error", {}).get("code") for result in answer["results"]]
    assert codes == [None, "invalid_argument", "after_refused", None]


def with_any_number(body: bytes, number: int) -> int:
    """Bytes of the message as it is delivered, if its number had as many digits as there can be."""
    return len(b'{"type":"message",' + body[1:]) - len(str(number)) + len(str(2**63 - 1))


async def test_a_delivered_message_is_smaller_than_what_api_gateway_takes(one: EmbeddedFunctions) -> None:
    def of_size(size: int) -> bytes:
        return msgspec.json.encode(fifo("c1", "x" * size))

    low, high = 0, MAX_MESSAGE_BYTES
    while high - low > 1:  # the largest content that is taken
        middle = (low + high) // 2
        status, _, _ = await one.rest("a2pHttpPublisher", "POST", "/publish", of_size(middle))
        low, high = (middle, high) if status == 202 else (low, middle)
    head = (await one.engine.numbers.heads(["c1"]))["c1"].sequence
    page = await one.engine.messages.by_number("c1", 1, head, 1000)
    status, _, problem = await one.rest("a2pHttpPublisher", "POST", "/publish", of_size(high))
    assert (status, problem["code"]) == (413, "message_too_large")
    numbers = [msgspec.json.decode(body)["sequenceNumber"] for body in page.bodies]
    assert max(map(with_any_number, page.bodies, numbers)) == TOO_LARGE - 1


async def test_an_origin_on_the_list_may_read_the_answer(stand: Functions) -> None:
    _, headers, _ = await stand.rest("metric-collector", "GET", "/openapi.json", headers=[("Origin", ORIGIN)])
    assert headers["access-control-allow-origin"] == ORIGIN
    _, headers, _ = await stand.rest("metric-collector", "GET", "/openapi.json", headers=[("Origin", "https://b.com")])
    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "Origin"


async def test_the_document_needs_no_token_and_describes_what_is_served_on_aws(stand: Functions) -> None:
    status, _, document = await stand.rest("metric-collector", "GET", "/openapi.json", claims=None)
    assert status == 200
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(method, f"/dvl{path}") for method, path in REST_ROUTES}


async def test_a_head_is_a_get_without_its_body(stand: Functions) -> None:
    status, headers, body = await stand.rest("metric-collector", "HEAD", "/openapi.json", claims=None)
    assert (status, headers["content-type"], body) == (200, "application/json", {})


async def test_metrics_are_taken(stand: Functions) -> None:
    metrics = {"metrics": [{"name": "gaps", "value": 1}]}
    status, _, _ = await stand.rest("metric-collector", "POST", "/metrics", metrics)
    assert status == 202


async def test_a_defect_is_a_500_and_its_text_stays_inside(
    one: EmbeddedFunctions, capsys: pytest.CaptureFixture[str]
) -> None:
    await one.stop()
    status, _, problem = await one.rest("a2pHttpPublisher", "POST", "/publish", fifo("c1", "secret"))
    assert status in (500, 503)
    assert problem["code"] in ("internal", "unavailable")
    told = capsys.readouterr()
    assert "secret" not in told.out + told.err


@pytest.mark.slow
async def test_a_page_and_a_batch_pass_through_lambda(
    make_stage: Callable[[], Stage], tmp_path: Path, files: FileKeys
) -> None:
    """Whatever is in them: 6 MB is what a call, or an answer, of a function may have."""
    async with started(AwsFunctions(make_stage(), files)) as functions:
        entry = msgspec.json.encode(fifo("c1", "x" * 130_000))
        many = b'{"messages":[' + b",".join([entry] * 31) + b"]}"
        most = many + b" " * (4 * 1024 * 1024 - len(many))
        claims = CLAIMS | {"scope": "tocsin/publish:any"}
        event = functions.dialect.rest("POST", "/publish/batch", body=most, claims=claims)
        assert len(msgspec.json.encode(event)) < LAMBDA_BYTES
        for _ in range(2):
            result = await functions.call("a2pHttpPublisher", event)
            assert b'"error"' not in result["body"].encode()
        await functions.settle()
        numbers: list[int] = []
        more = ""
        while True:
            query = f"chatId=c1&limit=1000&fromSequence=1{more}"
            event = functions.dialect.rest("GET", "/messages", query=query, claims=READER)
            answer = await functions.call("message-retrieval", event)
            assert len(msgspec.json.encode(answer)) < LAMBDA_BYTES
            page = msgspec.json.decode(answer["body"])
            numbers += [message["sequenceNumber"] for message in page["messages"]]
            if page["nextStartKey"] is None:
                break
            more = f"&startKey={page['nextStartKey']}"
        assert numbers == list(range(1, 63))


# -- the upgrade -------------------------------------------------------------------------------------------------------


async def test_the_chats_of_the_url_are_heard_from_the_upgrade_on(stand: Functions) -> None:
    await stand.grant("alice", "c1", "member")
    alice = await stand.open("alice", "c1", "user:alice", more="&userId=alice")
    await stand.publish("c1")
    await stand.settle()
    assert stand.numbers(alice, "c1") == [1]
    assert alice.of_type("subscribed") == [], "nothing runs after an upgrade: the client's first frame is sync"


@pytest.mark.slow
async def test_a_fan_out_during_the_upgrade_loses_nobody(make_stage: Callable[[], Stage], files: FileKeys) -> None:
    """Its row is written, the upgrade has not ended: API Gateway says 410, and that is no reason to forget it."""
    async with started(AwsFunctions(make_stage(), files)) as functions:
        await functions.grant("alice", "c1", "member")
        query = f"token={functions.token('alice')}&chatId=c1"
        assert await functions.upgrade(query) == {"statusCode": 200}
        await functions.publish("c1", "too early")
        await functions.settle()
        assert ("POST", CONNECTION) in functions.api.asked
        alice = Client(CONNECTION, identity("alice"), functions)
        functions.attach(alice)
        await functions.publish("c1", "in time")
        await functions.settle()
        heard = [frame["payload"]["content"] for frame in alice.of_type("message")]
        assert heard[-1] == "in time"
        assert functions.numbers(alice, "c1")[-1] == 2


async def test_a_subprotocol_is_answered_with_and_may_bring_the_token(stand: Functions) -> None:
    offer = [("Sec-WebSocket-Protocol", f"tocsin.v1, bearer.{stand.token('alice')}")]
    answer = await stand.upgrade("", offer)
    assert answer == {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "tocsin.v1"}}


async def test_a_header_may_bring_the_token(stand: Functions) -> None:
    assert await stand.upgrade("", [("Authorization", f"Bearer {stand.token('alice')}")]) == {"statusCode": 200}


@pytest.mark.parametrize("query", ["", "token=made-up", "ticket=made-up"])
async def test_who_is_nobody_gets_a_401(stand: Functions, query: str) -> None:
    with pytest.raises(Exception, match=r"^Unauthorized$"):
        await stand.upgrade(query)


async def test_who_is_not_allowed_gets_a_403(stand: Functions) -> None:
    token = stand.token("alice")
    assert await stand.upgrade(f"token={token}&chatId=secret") == {"statusCode": 403}
    assert await stand.upgrade(f"token={token}&userId=bob") == {"statusCode": 403}
    assert await stand.upgrade(f"token={token}", [("Origin", "https://b.example.com")]) == {"statusCode": 403}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("lastSequence=1", "lastSequence"),
        ("chatId=user:alice&lastSequence=-1", "lastSequence"),
        ("chatId=a%20b", "chatId"),
    ],
)
async def test_a_badly_made_upgrade_is_refused_by_connect_with_a_400(stand: Functions, query: str, field: str) -> None:
    answer = await stand.upgrade(f"token={stand.token('alice')}&{query}")
    assert answer["statusCode"] == 400
    assert msgspec.json.decode(answer["body"])["field"] == field
    assert await stand.engine.connections.get(CONNECTION) is None


async def test_connect_checks_again_what_the_authorizer_has_seen(stand: Functions) -> None:
    await stand.grant("alice", "c1", "member")
    await stand.grant("alice", "c2", "member")
    query = f"token={stand.token('alice')}&chatId=c1&chatId=c2"
    verdict = await stand.call("websocket-authorizer", stand.dialect.authorizer(query))
    await stand.rest("chat-permission", "DELETE", "/permissions", query="userId=alice&chatId=c2")
    answer = await stand.call("connection-handler", stand.dialect.connect(verdict["context"], query))
    assert answer["statusCode"] == 403
    assert await stand.engine.connections.get(CONNECTION) is None
    assert list(await stand.engine.connections.audience(["c1"])) == []


async def test_connect_without_an_authorizer_lets_nobody_in(stand: Functions) -> None:
    answer = await stand.call("connection-handler", stand.dialect.connect(None, f"token={stand.token('alice')}"))
    assert answer["statusCode"] == 401


async def test_a_ticket_opens_once_and_its_chats_are_the_limit(stand: Functions) -> None:
    for chat in ("c1", "c2"):
        await stand.grant("alice", chat, "member")
    _, _, answer = await stand.rest("chat-permission", "POST", "/tickets", {"chatIds": ["c1"]}, user="alice", scopes=())
    ticket = answer["ticket"]
    stand.spent(ticket, frozenset({"c1"}))
    assert await stand.upgrade(f"ticket={ticket}") == {"statusCode": 200}
    connection = await stand.engine.connections.get(CONNECTION)
    assert connection is not None
    assert connection.identity.chat_ids == frozenset({"c1"})
    assert (await stand.say({"action": "subscribe", "chatId": "c2", "requestId": "r1"}))["code"] == "forbidden"
    with pytest.raises(Exception, match=r"^Unauthorized$"):
        await stand.upgrade(f"ticket={ticket}", connection="another")


async def test_a_ticket_whose_row_is_gone_allows_no_chat(both: EmbeddedFunctions) -> None:
    _, _, answer = await both.rest(
        "chat-permission", "POST", "/tickets", {"chatIds": ["user:alice"]}, user="alice", scopes=()
    )
    assert await both.upgrade(f"ticket={answer['ticket']}") == {"statusCode": 200}
    connection = await both.engine.connections.get(CONNECTION)
    assert connection is not None
    assert connection.identity.chat_ids == frozenset()


async def test_who_has_too_many_connections_is_refused_by_connect(tmp_path: Path, files: FileKeys) -> None:
    stand = EmbeddedFunctions(tmp_path, files)
    await stand.start(Options(connections_per_user=1))
    await stand.open("alice")
    answer = await stand.upgrade(f"token={stand.token('alice')}", connection="second")
    await stand.stop()
    assert (answer["statusCode"], answer["headers"]["Retry-After"]) == (429, "10")


async def test_a_connection_that_left_is_forgotten(stand: Functions) -> None:
    await stand.grant("alice", "c1", "member")
    await stand.open("alice", "c1")
    await stand.call("connection-handler", stand.dialect.disconnect())
    assert await stand.engine.connections.get(CONNECTION) is None
    assert list(await stand.engine.connections.audience(["c1"])) == []


# -- what goes over it -------------------------------------------------------------------------------------------------


async def test_a_publish_is_acknowledged_by_the_routes_answer(stand: Functions) -> None:
    await stand.grant("alice", "c1", "member")
    alice = await stand.open("alice", "c1")
    ack = await stand.say({"action": "sendMessage", "requestId": "r1"} | fifo("c1"))
    assert (ack["type"], ack["requestId"], ack["duplicate"]) == ("ack", "r1", False)
    assert await stand.say({"action": "sendMessage"} | fifo("c1")) is None, "nothing was asked for"
    await stand.settle()
    assert stand.numbers(alice, "c1") == [1, 2]
    assert alice.of_type("ack") == [], "it is not posted, too"


async def test_two_frames_of_one_connection_may_be_under_way_together(stand: Functions) -> None:
    """API Gateway does not wait for the first one's answer: their order comes from waiting for the ack."""
    await stand.grant("alice", "c1", "member")
    alice = await stand.open("alice", "c1")
    acks = await asyncio.gather(
        *[stand.say({"action": "sendMessage", "requestId": f"r{index}"} | fifo("c1", index)) for index in range(8)]
    )
    assert [ack["requestId"] for ack in acks] == [f"r{index}" for index in range(8)], "each has its own answer"
    await stand.settle()
    assert stand.numbers(alice, "c1") == list(range(1, 9))
    assert sorted(frame["payload"]["content"] for frame in alice.of_type("message")) == list(range(8))


async def test_whose_row_is_gone_is_refused_whatever_he_says_but_a_ping(stand: Functions) -> None:
    """As after an erasure."""
    alice = await stand.open("alice")
    await stand.engine.connections.close([alice.connection_id])
    assert (await stand.say({"action": "ping"}))["type"] == "pong"
    for frame in ({"action": "sync", "chats": {"c1": 0}}, {"action": "unsubscribe", "chatId": "c1"}):
        assert (await stand.say(frame))["type"] == "error"


async def test_answers_of_frames_that_are_under_way_together_are_not_mixed_up(stand: Functions) -> None:
    await stand.open("alice")
    await stand.open("bob", connection="bobs")
    pongs = await asyncio.gather(
        *[
            stand.say({"action": "ping", "requestId": f"{connection}{index}"}, connection=connection)
            for index in range(8)
            for connection in (CONNECTION, "bobs")
        ]
    )
    assert [pong["requestId"] for pong in pongs] == [f"{c}{index}" for index in range(8) for c in (CONNECTION, "bobs")]
    assert all(pong["requestId"].startswith(pong["connectionId"]) for pong in pongs)


async def test_ping_unsubscribe_and_refresh_are_answered_and_subscribe_and_sync_are_posted(stand: Functions) -> None:
    await stand.grant("alice", "c1", "member")
    await stand.publish("c1")
    alice = await stand.open("alice")
    assert (await stand.say({"action": "ping", "requestId": "r1"}))["type"] == "pong"
    assert await stand.say({"action": "sync", "chats": {"c1": 0}, "requestId": "r2"}) is None
    assert [frame["type"] for frame in alice.frames] == ["message", "subscribed"]
    assert await stand.say({"action": "subscribe", "chatId": "c1", "requestId": "r3"}) is None
    assert alice.frames[-1]["requestId"] == "r3"
    heard = len(alice.frames)
    left = await stand.say({"action": "unsubscribe", "chatId": "c1", "requestId": "r4"})
    assert (left["type"], left["chatId"], left["requestId"]) == ("unsubscribed", "c1", "r4")
    token = stand.token("alice", seconds=7200)
    assert (await stand.say({"action": "refreshToken", "token": token, "requestId": "r5"}))["type"] == "ack"
    assert len(alice.frames) == heard


async def test_a_sync_subscribes_many_chats_and_one_that_is_refused_is_an_error(stand: Functions) -> None:
    chats = [f"c{number}" for number in range(120)]
    for chat in chats:
        await stand.grant("alice", chat, "reader")
    alice = await stand.open("alice")
    wanted = dict.fromkeys([*chats, "secret"]) | {"not-so": -1}
    assert await stand.say({"action": "sync", "chats": wanted, "requestId": "r1"}) is None
    assert [frame["chatId"] for frame in alice.of_type("subscribed")] == chats
    assert [(error["chatId"], error["code"], error["requestId"]) for error in alice.of_type("error")] == [
        ("not-so", "invalid_argument", "r1"),
        ("secret", "forbidden", "r1"),
    ]


async def test_a_sync_brings_so_much_that_its_time_suffices_and_says_what_it_left_out(one: EmbeddedFunctions) -> None:
    await one.grant("alice", "c1", "reader")
    await one.publish_many("c1", ["x"] * 1200)
    alice = await one.open("alice")
    await one.say({"action": "sync", "chats": {"c1": 0}})
    assert one.numbers(alice, "c1") == list(range(201, 1201))
    assert [(frame["from"], frame["to"]) for frame in alice.of_type("gap")] == [(1, 200)]
    assert [frame["recovered"] for frame in alice.of_type("subscribed")] == [False]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ('{"action":"$connect"}', "unknown_action", "action"),
        ('{"action":"$default"}', "unknown_action", "action"),
        ('{"action":"publish","requestId":"r1"}', "unknown_action", "action"),
        ("{}", "unknown_action", "action"),
        ("", "invalid_json", None),
        ('{"action":"ping","action":"ping"}', "invalid_json", None),
        ('{"action":"sync","chats":{}}', "invalid_argument", "chats"),
        ('"\ud800"', "invalid_json", None),
        ('"' + "x" * MAX_MESSAGE_BYTES + '"', "message_too_large", None),
    ],
)
async def test_a_frame_that_cannot_be_understood_is_answered_with_an_error(
    one: EmbeddedFunctions, body: str, code: str, field: str | None
) -> None:
    await one.open("alice")
    action = "$connect" if "$connect" in body else "ping"
    function: Function = "connection-handler" if action == "$connect" else "p2pWebSocketPublisher"
    result = await one.call(function, one.dialect.message(body, route=action))
    error = msgspec.json.decode(result["body"])
    assert (error["type"], error["code"], error.get("field")) == ("error", code, field)
    assert (error["connectionId"], error["requestId"]) == (CONNECTION, "r1" if '"r1"' in body else None)
    assert await one.engine.connections.get(CONNECTION) is not None, "nothing was connected anew"


async def test_a_binary_frame_is_unsupported(stand: Functions) -> None:
    await stand.open("alice")
    event = stand.dialect.message("AAEC") | {"isBase64Encoded": True}
    error = msgspec.json.decode((await stand.call("p2pWebSocketPublisher", event))["body"])
    assert error["code"] == "unsupported_data"


async def test_a_connection_that_is_not_known_any_more_is_told_to_open_another(stand: Functions) -> None:
    for action in ({"action": "sendMessage"} | fifo("c1"), {"action": "subscribe", "chatId": "c1"}):
        error = await stand.say(action | {"requestId": "r1"}, connection="unknown")
        assert (error["code"], error["requestId"]) == ("gone", "r1")


async def test_what_a_connection_may_do_is_read_at_each_frame(stand: Functions) -> None:
    await stand.grant("alice", "c1", "member")
    query = f"token={stand.token('alice', seconds=60)}&chatId=c1"
    assert await stand.upgrade(query) == {"statusCode": 200}
    sent = {"action": "sendMessage", "requestId": "r1"} | fifo("c1")
    assert (await stand.say(sent))["type"] == "ack"
    stand.clock.jump(91_000)  # the leeway is over, and the job that closes has not come yet
    assert (await stand.say(sent))["code"] == "token_expired"
    assert (await stand.say({"action": "subscribe", "chatId": "c1"}))["code"] == "token_expired"
    assert (await stand.say({"action": "refreshToken", "token": stand.token("alice")}))["type"] == "ack"
    assert (await stand.say(sent))["type"] == "ack"


async def test_another_users_token_renews_nothing(stand: Functions) -> None:
    await stand.open("alice")
    error = await stand.say({"action": "refreshToken", "token": stand.token("bob"), "requestId": "r1"})
    assert (error["code"], error["field"]) == ("forbidden", "token")


async def test_a_publish_without_permission_is_refused_live(stand: Functions) -> None:
    await stand.grant("alice", "c1", "reader")
    await stand.open("alice", "c1")
    error = await stand.say({"action": "sendMessage", "requestId": "r1"} | fifo("c1"))
    assert (error["code"], error["chatId"]) == ("forbidden", "c1")


async def test_a_defect_is_answered_and_its_text_stays_inside(
    one: EmbeddedFunctions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await one.restart(Options(failpoints="publish.before_ack=raise"))
    await one.grant("alice", "c1", "member")
    await one.open("alice", "c1")
    error = await one.say({"action": "sendMessage", "requestId": "r1"} | fifo("c1", "secret"))
    assert (error["code"], error["requestId"]) == ("internal", "r1")
    told = capsys.readouterr()
    assert "secret" not in told.out + told.err
    assert "FailpointError" in told.out + told.err


async def test_an_action_that_takes_too_long_is_unknown_and_not_silence(one: EmbeddedFunctions) -> None:
    one.frame_seconds = 0.05
    await one.restart(Options(failpoints="subscribe.mid_replay=stall:60000"))
    await one.grant("alice", "c1", "reader")
    await one.publish("c1")
    await one.open("alice")
    error = await one.say({"action": "sync", "chats": {"c1": 0}, "requestId": "r1"})
    assert (error["code"], error["requestId"]) == ("unavailable", "r1")


# -- queues, and the clock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["processor", "message-storage"])
async def test_a_batch_goes_to_the_bus_and_what_is_not_done_comes_again(
    both: EmbeddedFunctions, function: Function
) -> None:
    result = await both.call(function, both.dialect.batch("WebSocketStandardQueue", "a", "b"))
    assert result == {"batchItemFailures": [{"itemIdentifier": "message-1"}]}
    (batch,) = both.batches
    assert (batch.queue, [record.body for record in batch.records]) == ("WebSocketStandardQueue", ["a", "b"])


async def test_each_minute_ended_tokens_are_told_and_the_engine_has_its_turn(both: EmbeddedFunctions) -> None:
    await both.open("alice")
    assert await both.call("connection-handler", both.dialect.minute()) == {}
    assert both.minutes == 1


async def test_whose_token_ends_is_told_before_and_the_connection_is_closed_after(stand: Functions) -> None:
    await stand.upgrade(f"token={stand.token('alice', seconds=110)}")
    alice = Client(CONNECTION, identity("alice"), stand)
    stand.attach(alice)
    for _ in range(3):
        stand.clock.advance(60)
        await stand.call("connection-handler", stand.dialect.minute())
    assert alice.frames[0]["type"] == "tokenExpiring"
    assert alice.closed is not None
