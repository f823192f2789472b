"""A process of Lambda's: what it asks AWS for with its first event, what it keeps, and how long it goes on asking."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import boto3
import msgspec
import pytest

from bench.issuer import AUDIENCE, Issuer
from tests.gateways.lambda_events import CLAIMS, Aws, Json
from tests.ministack import Stage
from tocsin import logs
from tocsin.engines.aws.bus_format import message_of, write
from tocsin.engines.aws.settings import ENVIRONMENT, Function
from tocsin.errors import Refusal
from tocsin.message import MessageIds, Publication
from tocsin.profiles import aws
from tocsin.profiles.aws import Process

pytestmark = pytest.mark.slow

EVENTS = Aws()


class Context:
    """Lambda's."""

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self._seconds * 1000)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture(scope="module")
def place(make_stage: Callable[[], Stage]) -> Stage:
    return make_stage()


@pytest.fixture
def environment(place: Stage, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that any function is told."""
    settings = place.settings(
        ws_api_endpoint="http://127.0.0.1:1/dvl", issuer=issuer.url, jwks_url=f"{issuer.url}/keys", audience=(AUDIENCE,)
    )
    for name, value in msgspec.structs.asdict(settings).items():
        if name.upper() in {variable.name for variable in ENVIRONMENT} and value:
            monkeypatch.setenv(name.upper(), ",".join(value) if isinstance(value, tuple) else str(value))
    yield
    logs.configure("text")


Start = Callable[[Function], Process]


@pytest.fixture
def start(environment: None) -> Iterator[Start]:
    """Starts a process of a function's."""
    with ExitStack() as stack:

        def start(function: Function) -> Process:
            process = Process(function)
            stack.callback(process.close)
            return process

        yield start


@pytest.fixture
def secret(environment: None, ministack: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Changes the cursors' secret, which is `first`."""
    client = boto3.client("secretsmanager")
    arn = client.create_secret(Name="cursors", SecretString="first")["ARN"]
    monkeypatch.setenv("CURSOR_SECRET_ARN", arn)
    yield lambda text: client.put_secret_value(SecretId=arn, SecretString=text) and None
    client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    client.close()


def test_the_first_token_has_the_keys_fetched(start: Start, issuer: Issuer) -> None:
    process = start("websocket-authorizer")
    event = EVENTS.authorizer(f"token={issuer.token('alice', ('tocsin/messages:read',))}&chatId=c1")
    for _ in range(2):
        verdict = process.run(aws.websocket_authorizer.work, event, Context())
        assert verdict["context"]["userId"] == "alice"
    with pytest.raises(Exception, match=r"^Unauthorized$"):
        process.run(aws.websocket_authorizer.work, EVENTS.authorizer("token=made-up"), Context())


def test_where_the_keys_cannot_be_had_nobody_is_turned_away_for_good(
    start: Start, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWKS_URL", "http://127.0.0.1:1/keys")
    process = start("websocket-authorizer")
    event = EVENTS.authorizer(f"token={issuer.token('alice')}")
    with pytest.raises(Refusal, match="cannot be had just now"):
        process.run(aws.websocket_authorizer.work, event, Context())


def test_a_cursor_outlives_a_change_of_its_secret(
    secret: Callable[[str], None], start: Start, place: Stage, issuer: Issuer
) -> None:
    claims: Json = CLAIMS | {"iss": issuer.url, "client_id": AUDIENCE, "exp": 4_000_000_000}
    claims["scope"] = "tocsin/messages:read tocsin/publish:any"

    def page(process: Process, query: str) -> Json:
        event = EVENTS.rest("GET", "/messages", query=f"chatId=c1&limit=1{query}")
        event["requestContext"]["authorizer"]["claims"] = {name: str(value) for name, value in claims.items()}
        result = process.run(aws.message_retrieval.work, event, Context())
        assert result["statusCode"] == 200, result["body"]
        body: Json = msgspec.json.decode(result["body"])
        return body

    for content in ("a", "b"):
        _store(start, place, content)
    before = page(start("message-retrieval"), "")
    secret("second")
    after = start("message-retrieval")
    following = page(after, f"&startKey={before['nextStartKey']}")
    texts = [message["payload"]["content"] for message in before["messages"] + following["messages"]]
    assert texts == ["b", "a"]
    secret("third")
    query = f"chatId=c1&limit=1&startKey={before['nextStartKey']}"
    event = EVENTS.rest("GET", "/messages", query=query)
    event["requestContext"]["authorizer"]["claims"] = {name: str(value) for name, value in claims.items()}
    refused = start("message-retrieval").run(aws.message_retrieval.work, event, Context())
    assert msgspec.json.decode(refused["body"])["code"] == "invalid_cursor", "two versions are good, and no more"


def _store(start: Start, place: Stage, content: str) -> None:
    """A message that message-storage has stored: a batch as SQS hands it over."""
    now = 1_800_000_000_000 + ord(content)
    message_id, timestamp = MessageIds(lambda bits: ord(content)).draw(now)
    payload = msgspec.json.encode({"chatId": "c1", "eventType": "chat", "content": content})
    publication = Publication(
        message_id=message_id,
        timestamp=timestamp,
        sender_id="alice",
        chat_id="c1",
        target_channel="WebSocket",
        message_type="standard",
        payload=payload,
    )
    queue = place.queues["MessageStorageQueue"].rpartition("/")[2]
    event = EVENTS.batch(queue, write(message_of(publication)))
    assert start("message-storage").run(aws.message_storage.work, event, Context(30)) == {"batchItemFailures": []}


def test_what_was_counted_is_printed_when_the_event_is_done(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    result = start("metric-collector").run(
        aws.metric_collector.work, EVENTS.rest("GET", "/nothing", claims=None), Context()
    )
    assert result["statusCode"] == 404
    line = msgspec.json.decode(capsys.readouterr().out.splitlines()[-1])
    assert (line["code"], line["refusals"]) == ("not_found", 1)


def test_a_function_stops_asking_before_lambda_stops_it(
    start: Start, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1")
    event = EVENTS.authorizer(f"token={issuer.token('alice')}&chatId=c1")
    with pytest.raises(Refusal, match="busy just now"):
        start("websocket-authorizer").run(aws.websocket_authorizer.work, event, Context(seconds=1.5))
