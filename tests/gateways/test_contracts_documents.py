"""The two documents that programs read, held against the code that they describe and a service that runs."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import yaml
from jsonschema import Draft7Validator  # type: ignore[import-untyped]  # they are not worth a dependency
from openapi_spec_validator import validate

import tocsin
from tests.gateways.contract import Contract
from tests.gateways.doors import BACK_END, Doors, Hasty, opened
from tests.gateways.peer import Peer, text
from tocsin.engines.file_keys import FileKeys
from tocsin.errors import STATUS, CloseCode
from tocsin.gateways import actions, openapi
from tocsin.gateways.routes import ROUTES

Json = dict[str, Any]

ROOM: Final = "chat-abc123"
POISON: Final = "POISON"
DOCS: Final = Path(__file__).parents[2] / "docs"
#: Codes that no described answer has: a WebSocket's, a wrong method's, a batch entry's.
NOT_REST: Final = {"unknown_action", "method_not_allowed", "after_refused"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> FileKeys:
    return FileKeys(tmp_path_factory.mktemp("store") / "keys")


@pytest.fixture
async def doors(tmp_path: Path, keys: FileKeys) -> AsyncIterator[Doors]:
    poison = f"processor.before_audience=raise~{POISON}"
    async with opened(tmp_path, keys, failpoints=poison, clock=Hasty()) as doors:
        yield doors


# -- OpenAPI -----------------------------------------------------------------------------------------------------------


def test_the_openapi_document_is_valid() -> None:
    validate(Contract().document)


def test_every_route_is_described_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, item in Contract().document["paths"].items() for method in item}
    assert described == {(route.method, f"/dvl{route.path}") for route in ROUTES}
    assert len({route.operation for route in ROUTES}) == len(ROUTES)


def test_every_code_of_the_table_is_described_with_its_status() -> None:
    contract = Contract()
    codes: dict[str, set[str]] = {}
    for item in contract.document["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    problem = contract.resolve(response)["content"]["application/json"]["schema"]["allOf"][1]
                    codes.setdefault(status, set()).update(problem["properties"]["code"]["enum"])
    assert codes.pop("408") == codes.pop("431") == {"bad_request"}
    described = {code: int(status) for status, found in codes.items() for code in found}
    assert {code: STATUS[code] for code in described} == described
    assert set(STATUS) - set(described) <= NOT_REST
    assert contract.document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == list(STATUS)


def test_the_document_follows_the_base_path() -> None:
    assert set(openapi.document("/")["paths"]) >= {"/", "/publish"}  # type: ignore[call-overload]
    assert set(openapi.document("/a/b")["paths"]) >= {"/a/b", "/a/b/publish"}  # type: ignore[call-overload]


async def test_the_document_is_served_as_it_is_made(doors: Doors) -> None:
    answer = await doors.ask("GET", "/openapi.json", user=None)
    assert answer.json() == doors.contract.document


async def test_a_running_service_answers_as_is_described(doors: Doors) -> None:
    """Every operation's success, and every refusal that a request can bring about; `Doors.ask` judges each answer."""
    entry = {"messageType": "fifo", "payload": {"chatId": ROOM, "eventType": "chat", "content": [1]}}
    peer = await doors.connect()
    assert (await peer.upgrade(f"/dvl?token={doors.token('alice')}&chatId=user:alice")).status == 101
    connection = f"/@connections/{(await frame(peer))['connectionId']}"
    ask = doors.ask
    for _ in range(3):
        await ask("POST", "/publish", entry, headers={"idempotency-key": "one"})
    await ask("POST", "/publish", {**entry, "messageType": "standard"}, headers={"idempotency-key": "one"})
    await ask("POST", "/publish/batch", {"messages": [entry, {"payload": 1}, {**entry, "colour": 1}, entry]})
    for query in ("&limit=1", "&order=asc", "&fromSequence=1", "&startKey=x", "&limit=x"):
        await ask("GET", f"/messages?chatId={ROOM}{query}")
    await ask("POST", "/publish", entry, user="alice")
    await ask("GET", f"/messages?chatId={ROOM}", user="alice")
    for user, role in (("bob", "owner"), ("bob", "admin"), ("dave", "reader"), ("dave", "king")):
        await ask("POST", "/permissions", {"userId": user, "chatId": ROOM, "role": role})
    for query in (f"chatId={ROOM}", "userId=bob", f"userId=bob&chatId={ROOM}", "limit=1", "userId=bob&startKey=x"):
        await ask("GET", f"/permissions?{query}")
        await ask("GET", f"/permissions?{query}", user="alice")
    for user in ("bob", "dave", "nobody"):
        await ask("DELETE", f"/permissions?chatId={ROOM}&userId={user}", user="alice")
        await ask("DELETE", f"/permissions?chatId={ROOM}&userId={user}")
    await ask("POST", "/permissions", {"userId": "carol", "chatId": ROOM, "role": "owner"}, user="alice")
    await ask("POST", "/metrics", {"metrics": [{"name": "gaps", "value": 1}]}, user="alice")
    await ask("POST", "/tickets", {"chatIds": [ROOM]}, user="alice")
    await ask("POST", "/tickets", user="alice")
    await ask("POST", connection, b"hello")
    await ask("POST", connection, b"\xff")
    for method, body in (("GET", None), ("DELETE", None), ("GET", None), ("POST", b"x"), ("DELETE", None)):
        await ask(method, connection, body)
        await ask(method, connection, body, user="alice")
    await ask("GET", "/openapi.json", user=None)
    for target in ("", "?ticket=unheard-of", f"?chatId={ROOM}", "?chatId=a%20b"):
        await ask("GET", target, user="alice")
    for route in ROUTES:
        target = route.path.replace("{connectionId}", "x")
        await ask(route.method, target, user=None)
        await ask(route.method, target, headers={"authorization": "Bearer x"})
        await ask(route.method, target, headers={"authorization": f"Bearer {doors.token(BACK_END, ago=7_200)}"})
        await ask(route.method, target + "?colour=1")
        if route.body is not None:
            await ask(route.method, target, b"x" * (route.max_body + 1))
            await ask(route.method, target, b"{")
            await ask(route.method, target, b"{}", headers={"content-type": "text/plain"})
            await ask(route.method, target, b"{}", headers={"x-request-id": "1"})

    seen = doors.contract.seen
    assert {route.operation for route in ROUTES if (route.operation, route.status, None) not in seen} == {"connect"}
    unseen = {
        (route.operation, code)
        for route in ROUTES
        for code in route.refusals
        if code != "insufficient_storage" and (route.operation, STATUS[code], code) not in seen
    }
    assert unseen == set()


# -- AsyncAPI ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asyncapi() -> Json:
    document: Json = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    return document


async def frame(peer: Peer) -> Json:
    opcode, payload = await peer.frame()
    assert opcode == 1
    read: Json = msgspec.json.decode(payload)
    return read


def resolve(document: Json, reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in part.values()))
    return set[str]().union(*map(references, part)) if isinstance(part, list) else set()


def test_the_asyncapi_document_has_the_form_of_asyncapi_3(asyncapi: Json) -> None:
    allowed = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert set(asyncapi) <= allowed
    assert asyncapi["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(asyncapi["info"])
    for server in asyncapi["servers"].values():
        assert {"host", "protocol"} <= set(server)
    for reference in references(asyncapi):
        assert resolve(asyncapi, reference) is not None
    (channel,) = asyncapi["channels"].values()
    assert channel["address"] == "/dvl"
    said = []
    for operation in asyncapi["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["channel"] == {"$ref": "#/channels/connection"}
        said += [message["$ref"].removeprefix("#/channels/connection/messages/") for message in operation["messages"]]
    assert sorted(said) == sorted(channel["messages"]) == sorted(asyncapi["components"]["messages"])
    for name, message in asyncapi["components"]["messages"].items():
        assert set(message) <= {"summary", "description", "payload", "examples"}
        Draft7Validator.check_schema(message["payload"])
        for example in message.get("examples", ()):
            validator(asyncapi, name).validate(example["payload"])
    for schema in asyncapi["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


def validator(asyncapi: Json, message: str) -> Draft7Validator:
    schema = asyncapi["components"]["messages"][message]["payload"]
    return Draft7Validator({**schema, "components": asyncapi["components"]})


def spoken(asyncapi: Json, operation: str) -> set[str]:
    return {message["$ref"].rpartition("/")[2] for message in asyncapi["operations"][operation]["messages"]}


def test_every_action_is_described_as_it_is_decoded(asyncapi: Json) -> None:
    kinds = {kind.__struct_config__.tag: kind for kind in actions.Action.__args__}
    assert spoken(asyncapi, "say") == set(kinds) == set(actions.NAMES)
    for name, kind in kinds.items():
        payload = asyncapi["components"]["messages"][name]["payload"]
        fields = msgspec.structs.fields(kind)
        assert payload["additionalProperties"] is False
        assert payload["properties"]["action"] == {"const": name}
        assert set(payload["properties"]) == {"action", *(field.encode_name for field in fields)}
        assert set(payload["required"]) == {"action", *(field.encode_name for field in fields if field.required)}


def test_every_frame_that_the_code_writes_is_described(asyncapi: Json) -> None:
    sources = [path.read_text() for path in Path(tocsin.__path__[0]).rglob("*.py")]
    written = re.compile(r"""["{]type"{1,2}: ?"(\w+)"|_answer\("(\w+)\"""")
    types = {first or second for source in sources for first, second in written.findall(source)}
    assert types & set(spoken(asyncapi, "hear")) == spoken(asyncapi, "hear")
    assert types - spoken(asyncapi, "hear") <= {"http", "integer", "string", "object", "apiKey", "null"}
    for name in spoken(asyncapi, "hear"):
        assert asyncapi["components"]["messages"][name]["payload"]["properties"]["type"] == {"const": name}


def test_codes_and_close_codes_are_those_of_the_table(asyncapi: Json) -> None:
    assert set(asyncapi["components"]["schemas"]["errorCode"]["enum"]) <= set(STATUS)
    codes = {value for name, value in vars(CloseCode).items() if name.isupper()}
    assert set(asyncapi["channels"]["connection"]["x-close-codes"]) == codes


async def test_a_running_service_speaks_as_is_described(doors: Doors, asyncapi: Json) -> None:
    heard: set[str] = set()

    async def hear(peer: Peer, kind: str) -> Json:
        """The next frame of this kind; all that come are judged."""
        while True:
            told = await frame(peer)
            validator(asyncapi, told["type"]).validate(told)
            heard.add(told["type"])
            if told["type"] == kind:
                return told

    async def say(peer: Peer, **action: object) -> None:
        validator(asyncapi, str(action["action"])).validate(action)
        await peer.send(text(msgspec.json.encode(action)))

    await doors.grant("alice", ROOM, "member")
    peer = await doors.connect()
    token = doors.token("alice", ago=3_600)
    assert (await peer.upgrade(f"/dvl?chatId={ROOM}&token={token}&userId=alice")).status == 101
    await hear(peer, "subscribed")
    assert (await hear(peer, "tokenExpiring"))["expiresIn"] == 0
    await say(peer, action="refreshToken", token=doors.token("alice"), requestId="r")
    assert (await hear(peer, "ack"))["requestId"] == "r"

    payload = {"chatId": ROOM, "eventType": "chat", "content": "x"}
    fifo = {"action": "sendMessage", "messageType": "fifo"}
    await say(peer, **fifo, payload=payload, requestId="1", messageDeduplicationId="d")
    assert (await hear(peer, "ack"))["duplicate"] is False
    assert (await hear(peer, "message"))["sequenceNumber"] == 1
    await say(peer, **fifo, payload={**payload, "content": POISON})
    gap = await hear(peer, "gap")
    assert (gap["from"], gap["to"]) == (2, 2)
    await say(peer, action="ping", requestId="2")
    await hear(peer, "pong")
    await say(peer, action="subscribe", chatId="user:alice", lastSequence=0, requestId="3")
    await hear(peer, "subscribed")
    await say(peer, action="sync", chats={ROOM: 0, "user:alice": None, "not-hers": 3})
    await hear(peer, "error")
    await say(peer, action="unsubscribe", chatId="user:alice")
    await hear(peer, "unsubscribed")
    await peer.send(text(b"{"))
    assert (await hear(peer, "error"))["requestId"] is None
    await doors.ask("DELETE", f"/permissions?userId=alice&chatId={ROOM}")
    await hear(peer, "revoked")
    assert heard == spoken(asyncapi, "hear")
