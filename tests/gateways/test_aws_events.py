"""AWS's events are read alike in both of their forms, AWS's and the emulator's; what goes back is as AWS takes it."""

from typing import Any

import msgspec
import pytest

from tests.gateways.lambda_events import ARN, CLAIMS, CONNECTION, DIALECTS, ISSUED, Aws, Ministack
from tocsin import strict_json
from tocsin.errors import Refusal
from tocsin.gateways import aws_events
from tocsin.gateways.aws_events import Admission, Frame, Left, Upgrade
from tocsin.identity import Identity


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Aws:
    made: Aws = request.param
    return made


ALICE = Identity(user_id="alice", scopes=frozenset({"publish:any", "messages:read"}), expires_at=1_800_003_630_000)


# -- the REST API ------------------------------------------------------------------------------------------------------


def test_a_call_is_read_alike_in_both_forms(dialect: Aws) -> None:
    event = dialect.rest(
        "POST",
        "/publish",
        query="chatId=c1&limit=5",
        headers=[("Content-Type", "application/json"), ("Idempotency-Key", "k1")],
        body=b'{"a":1}',
    )
    call = aws_events.read_call(event)
    assert (call.method, call.path, call.query, call.body) == ("POST", "/publish", b"chatId=c1&limit=5", b'{"a":1}')
    assert {("content-type", "application/json"), ("idempotency-key", "k1")} <= set(call.headers)
    assert call.claims == CLAIMS
    assert call.request_id == "e43a8f2a-xmpl-4f0c-8f0a-9b5d2a9d1a2b"


def test_a_call_without_anything_is_read(dialect: Aws) -> None:
    event = dialect.rest("GET", "/openapi.json", claims=None)
    for part in ("headers", "multiValueHeaders", "body"):
        event[part] = None
    call = aws_events.read_call(event)
    assert (call.query, call.headers, call.body, call.claims) == (b"", [], b"", None)
    for part in (
        "headers",
        "multiValueHeaders",
        "queryStringParameters",
        "multiValueQueryStringParameters",
        "body",
        "isBase64Encoded",
    ):
        del event[part]
    assert aws_events.read_call(event) == call


def test_a_body_is_the_bytes_that_were_sent(dialect: Aws) -> None:
    sent = b'{"payload":"\xff\xfe \xed\xa0\x80"}'
    assert aws_events.read_call(dialect.rest("POST", "/publish", body=sent)).body == sent
    text = dialect.rest("POST", "/publish") | {"body": '{"a":"ü"}', "isBase64Encoded": False}
    assert aws_events.read_call(text).body == '{"a":"ü"}'.encode()


def test_a_text_that_is_no_unicode_is_left_for_the_scan_to_refuse(dialect: Aws) -> None:
    event = dialect.rest("POST", "/publish") | {"body": '"\ud800"', "isBase64Encoded": False}
    with pytest.raises(Refusal) as refused:
        strict_json.scan(aws_events.read_call(event).body)
    assert refused.value.code == "invalid_json"


def test_a_query_is_written_again_as_it_was_meant(dialect: Aws) -> None:
    event = dialect.rest("GET", "/messages", query="chatId=a%2Bb&startKey=%C3%BC%26%3D&chatId=c")
    assert aws_events.read_call(event).query == b"chatId=a%2Bb&chatId=c&startKey=%C3%BC%26%3D"
    event["multiValueQueryStringParameters"] = None
    assert aws_events.read_call(event).query == b"chatId=c&startKey=%C3%BC%26%3D"


def test_a_header_that_came_twice_is_there_twice() -> None:
    event = Aws().rest("GET", "/messages", headers=[("Authorization", "Bearer a"), ("Authorization", "Bearer b")])
    values = [value for name, value in aws_events.read_call(event).headers if name == "authorization"]
    assert values == ["Bearer a", "Bearer b"]


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [
        ("exp", "Fri Jan 15 09:00:00 UTC 2027", ISSUED + 3600),
        ("exp", str(ISSUED + 3600), ISSUED + 3600),
        ("exp", "never", "never"),
        ("cognito:groups", "[tocsin/publish:any staff]", ["tocsin/publish:any", "staff"]),
        ("cognito:groups", "tocsin/publish:any,staff", ["tocsin/publish:any", "staff"]),
        ("cognito:groups", "[tocsin/publish:any,staff]", ["tocsin/publish:any,staff"]),
        ("cognito:groups", "[]", []),
        ("sub", "123", "123"),
    ],
)
def test_a_claim_is_what_the_token_says_however_it_is_written(name: str, text: str, meant: object) -> None:
    event = Aws().rest("GET", "/messages")
    event["requestContext"]["authorizer"]["claims"][name] = text
    claims = aws_events.read_call(event).claims
    assert claims is not None
    assert claims[name] == meant


def test_of_groups_that_are_joined_by_commas_one_with_a_comma_is_read_as_two() -> None:
    """API Gateway does not say which it was."""
    claims = aws_events.read_call(Aws().rest("GET", "/", claims=CLAIMS | {"cognito:groups": ["a,b", "c"]})).claims
    assert claims is not None
    assert claims["cognito:groups"] == ["a", "b", "c"]


def test_a_reply_is_text_with_each_header_once() -> None:
    reply = aws_events.Reply(status=202, headers={"x-request-id": "r1"}, body='{"a":"ü"}'.encode())
    assert aws_events.render_reply(reply) == {
        "statusCode": 202,
        "headers": {"x-request-id": "r1"},
        "body": '{"a":"ü"}',
        "isBase64Encoded": False,
    }


# -- the upgrade -------------------------------------------------------------------------------------------------------


def test_an_upgrade_is_read_alike_in_both_forms(dialect: Aws) -> None:
    event = dialect.authorizer("token=t&chatId=c1&chatId=a%2Bb", [("Sec-WebSocket-Protocol", "tocsin, bearer.x")])
    upgrade = aws_events.read_upgrade(event)
    assert upgrade.request.query == [("token", "t"), ("chatId", "c1"), ("chatId", "a+b")]
    assert upgrade.request.subprotocols() == ["tocsin", "bearer.x"]
    assert upgrade.request.header("host") == "ws.example.com"
    assert (upgrade.connection_id, upgrade.method_arn) == (CONNECTION, ARN)
    assert (upgrade.source_ip, upgrade.user_agent) == ("192.0.2.1", "Mozilla/5.0")
    assert upgrade.verdict is None


def test_an_upgrade_without_a_query_is_read(dialect: Aws) -> None:
    assert aws_events.read_upgrade(dialect.authorizer()).request.query == []


def test_who_may_come_in_is_handed_on_to_connect(dialect: Aws) -> None:
    upgrade = aws_events.read_upgrade(dialect.authorizer("chatId=c1&chatId=c2"))
    admission = Admission.of(ALICE, ["c1", "c2"])
    result = aws_events.render_verdict(upgrade, admission)
    assert result["policyDocument"] == {
        "Version": "2012-10-17",
        "Statement": [{"Action": "execute-api:Invoke", "Effect": "Allow", "Resource": ARN}],
    }
    assert result["context"] == {
        "userId": "alice",
        "scopes": "messages:read publish:any",
        "expiresAt": 1_800_003_630_000,
        "chatIds": '["c1","c2"]',
    }
    connecting = aws_events.read_socket_event(dialect.connect(result["context"]))
    assert isinstance(connecting, Upgrade)
    assert connecting.verdict == admission
    assert admission.identity == ALICE
    assert admission.chats == ["c1", "c2"]


def test_a_tickets_limit_is_handed_on_as_a_flag_because_its_chats_have_no_room(dialect: Aws) -> None:
    limited = msgspec.structs.replace(ALICE, chat_ids=frozenset(f"chat-{number:0>120}" for number in range(300)))
    upgrade = aws_events.read_upgrade(dialect.authorizer("ticket=t"))
    result = aws_events.render_verdict(upgrade, Admission.of(limited, []))
    assert result["context"]["limited"] is True
    connecting = aws_events.read_upgrade(dialect.connect(result["context"]))
    assert isinstance(connecting.verdict, Admission)
    assert connecting.verdict.limited


def test_a_context_holds_texts_numbers_and_booleans_and_no_more_than_8_kb(dialect: Aws) -> None:
    upgrade = aws_events.read_upgrade(dialect.authorizer())
    most = [f"{number:0>120}" for number in range(64)]  # more than a URL of 4,096 characters can name
    context = aws_events.render_verdict(upgrade, Admission.of(ALICE, most))["context"]
    assert {type(value) for value in context.values()} <= {str, int, bool}
    assert len(msgspec.json.encode(context)) <= 8192
    verdict = refused_at_connect(dialect, upgrade, Admission.of(ALICE, [*most, "1" * 120]))
    assert (verdict.code, verdict.status, verdict.field) == ("invalid_argument", 400, "chatId")


def test_a_bad_request_passes_the_authorizer_and_is_refused_by_connect(dialect: Aws) -> None:
    """The authorizer has no status for it."""
    upgrade = aws_events.read_upgrade(dialect.authorizer("lastSequence=x"))
    refusal = Refusal("invalid_argument", "It must be a whole number, 0 or more.", field="lastSequence")
    verdict = refused_at_connect(dialect, upgrade, refusal)
    assert (verdict.code, verdict.message, verdict.field) == (refusal.code, refusal.message, "lastSequence")
    answer = aws_events.render_upgrade(upgrade, verdict)
    assert answer["statusCode"] == 400
    assert msgspec.json.decode(answer["body"]) == {
        "message": refusal.message,
        "code": "invalid_argument",
        "requestId": "L0SM9GTXPHcFhPQ=",
        "field": "lastSequence",
    }


def refused_at_connect(dialect: Aws, upgrade: Upgrade, verdict: Admission | Refusal) -> Refusal:
    result = aws_events.render_verdict(upgrade, verdict)
    assert result["policyDocument"]["Statement"][0]["Effect"] == "Allow"
    told = aws_events.read_upgrade(dialect.connect(result["context"])).verdict
    assert isinstance(told, Refusal)
    return told


@pytest.mark.parametrize("code", ["unauthorized", "invalid_token", "token_expired", "invalid_ticket"])
def test_a_401_is_an_exception_with_just_this_text(code: str) -> None:
    upgrade = aws_events.read_upgrade(Aws().authorizer())
    with pytest.raises(Exception, match=r"^Unauthorized$") as raised:
        aws_events.render_verdict(upgrade, Refusal(code, "The token is a secret."))
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_a_403_is_a_denial_that_hands_on_nothing() -> None:
    upgrade = aws_events.read_upgrade(Aws().authorizer())
    result = aws_events.render_verdict(upgrade, Refusal("forbidden", "No."))
    assert result == {
        "principalId": "nobody",
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [{"Action": "execute-api:Invoke", "Effect": "Deny", "Resource": ARN}],
        },
    }


def test_what_is_unknown_is_raised_so_that_it_is_a_500_and_not_a_denial() -> None:
    upgrade = aws_events.read_upgrade(Aws().authorizer())
    with pytest.raises(Refusal, match="just now"):
        aws_events.render_verdict(upgrade, Refusal("unavailable", "The keys cannot be had just now."))


def test_connect_answers_a_subprotocol_by_a_header() -> None:
    upgrade = aws_events.read_upgrade(Aws().connect(None, headers=[("Sec-WebSocket-Protocol", "tocsin.v1")]))
    assert aws_events.render_upgrade(upgrade, "tocsin.v1") == {
        "statusCode": 200,
        "headers": {"Sec-WebSocket-Protocol": "tocsin.v1"},
    }
    assert aws_events.render_upgrade(upgrade, None) == {"statusCode": 200}


# -- what goes over it -------------------------------------------------------------------------------------------------


def test_what_happened_counts_and_not_the_route(dialect: Aws) -> None:
    """A frame may name any action; the emulator hands such a one to the route `$connect`."""
    frame = aws_events.read_socket_event(dialect.message('{"action":"$connect"}', route="$connect"))
    assert isinstance(frame, Frame)
    assert frame.text == b'{"action":"$connect"}'
    left = aws_events.read_socket_event(dialect.disconnect())
    assert left == Left(connection_id=CONNECTION)
    assert isinstance(aws_events.read_socket_event(dialect.connect(None)), Upgrade)


def test_a_frame_is_bytes_or_was_binary(dialect: Aws) -> None:
    assert aws_events.read_frame(dialect.message('"ü"')).text == '"ü"'.encode()
    assert aws_events.read_frame(dialect.message("")).text == b""
    assert aws_events.read_frame(dialect.message("AAEC") | {"isBase64Encoded": True}).text is None


def test_an_answer_is_one_text_or_none() -> None:
    assert aws_events.render_frame(b'{"type":"pong"}') == {"statusCode": 200, "body": '{"type":"pong"}'}
    assert aws_events.render_frame(None) == {"statusCode": 200}


# -- queues, and the clock ---------------------------------------------------------------------------------------------


def test_a_batch_names_its_queue_and_counts_receives(dialect: Aws) -> None:
    batch = aws_events.read_batch(dialect.batch("two-WebSocketFifoQueue.fifo", "a", "b", receives=2))
    assert batch.queue == "two-WebSocketFifoQueue.fifo"
    assert [(one.transport_id, one.receipt, one.body, one.receives) for one in batch.records] == [
        ("message-0", "handle-0", "a", 2),
        ("message-1", "handle-1", "b", 2),
    ]


def test_what_is_to_come_again_is_named() -> None:
    assert aws_events.render_failures([]) == {"batchItemFailures": []}
    assert aws_events.render_failures(["message-1"]) == {"batchItemFailures": [{"itemIdentifier": "message-1"}]}


def test_only_the_clock_is_taken_for_the_clock(dialect: Aws) -> None:
    assert aws_events.is_minute(dialect.minute())
    assert aws_events.is_minute(dialect.minute() | {"source": "aws.scheduler"})
    assert not aws_events.is_minute(dialect.message('{"source":"aws.events"}') | {"source": "aws.events"})
    assert not aws_events.is_minute({})


@pytest.mark.parametrize("read", [aws_events.read_call, aws_events.read_socket_event, aws_events.read_batch])
def test_what_a_function_is_not_wired_to_is_a_defect(read: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(Ministack().minute())


def test_nothing_that_carries_a_credential_shows_it() -> None:
    secret = "eyJhbGciOiJSUzI1NiJ9"
    headers = [("Authorization", f"Bearer {secret}")]
    call = aws_events.read_call(Aws().rest("GET", "/messages", query=f"startKey={secret}", headers=headers))
    upgrade = aws_events.read_upgrade(Aws().authorizer(f"token={secret}", headers))
    frame = aws_events.read_frame(Aws().message(f'{{"action":"refreshToken","token":"{secret}"}}'))
    assert secret not in repr((call, upgrade, frame))
