"""AWS's event dicts, and the only file that knows them: what a function is handed, and what it hands back.

    REST API -> read_call -> Call -> aws_rest -> Reply -> render_reply
    WebSocket API, authorizer -> read_upgrade -> Upgrade -> aws_sockets -> Admission | Refusal -> render_verdict
    WebSocket API, routes -> read_socket_event -> Upgrade -> aws_sockets -> render_upgrade
                                               -> Frame | Left -> aws_sockets -> render_frame
    SQS -> read_batch -> Batch -> the bus -> render_failures           EventBridge -> is_minute

Rules:
- AWS and its emulators differ in what they leave out: a key may be absent or null, a header's name in any case, a
  number or a list a text. Every form is read; none is relied on.
- A body is bytes from here on, as it came, so that the strict scan sees what was sent.
- An authorizer may hand on texts, numbers and booleans, 8 KB in all: the chats of the URL as JSON text, no more.

Long because AWS's dicts, in and out, are known here and nowhere else.
"""

from base64 import b64decode
from calendar import timegm
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from time import strptime
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec

from tocsin.errors import Refusal, invalid
from tocsin.gateways.handshake import UpgradeRequest, refusal_body, refusal_headers
from tocsin.identity import Identity

T = TypeVar("T")

#: What an event, and what a handler returns, is to Python.
Event = Mapping[str, Any]
Result = dict[str, Any]

#: Bytes that an authorizer may hand on, as JSON.
MAX_CONTEXT: Final = 8 * 1024

_Many = dict[str, list[str] | None] | None
_One = dict[str, str | None] | None


class _Source(msgspec.Struct, rename="camel"):
    source_ip: str | None = None
    user_agent: str | None = None


class _SocketContext(msgspec.Struct, rename="camel"):
    connection_id: str
    event_type: Literal["CONNECT", "MESSAGE", "DISCONNECT"]
    request_id: str | None = None
    identity: _Source | None = None
    authorizer: dict[str, Any] | None = None


class _SocketEvent(msgspec.Struct, rename="camel"):
    request_context: _SocketContext
    headers: _One = None
    multi_value_headers: _Many = None
    query_string_parameters: _One = None
    multi_value_query_string_parameters: _Many = None
    method_arn: str | None = None
    body: str | None = None
    is_base64_encoded: bool | None = False


class _Authorized(msgspec.Struct):
    claims: dict[str, Any] | None = None


class _RestContext(msgspec.Struct, rename="camel"):
    request_id: str
    authorizer: _Authorized | None = None


class _RestEvent(msgspec.Struct, rename="camel"):
    http_method: str
    #: The route, whatever stands before it in the path: a stage, or a domain's mapping.
    resource: str
    request_context: _RestContext
    headers: _One = None
    multi_value_headers: _Many = None
    query_string_parameters: _One = None
    multi_value_query_string_parameters: _Many = None
    body: str | None = None
    is_base64_encoded: bool | None = False


class _SqsRecord(msgspec.Struct, rename="camel"):
    message_id: str
    receipt_handle: str
    body: str
    attributes: dict[str, str]
    event_source_arn: str = msgspec.field(name="eventSourceARN")


class _SqsEvent(msgspec.Struct, rename="pascal"):
    records: list[_SqsRecord]


class _ScheduleEvent(msgspec.Struct):
    source: str | None = None


def _read(event: Event, shape: type[T]) -> T:
    """`msgspec.ValidationError`: the function is wired to something else."""
    return msgspec.convert(event, shape, strict=False)


# -- the REST API ------------------------------------------------------------------------------------------------------


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Header names are in lower case; `claims` are the token's as the authorizer found them, or None.

    It carries credentials, so nothing logs it.
    """

    method: str
    path: str
    query: bytes
    headers: list[tuple[str, str]]
    body: bytes
    claims: Mapping[str, object] | None
    request_id: str

    def __repr__(self) -> str:
        return f"Call({self.method} {self.path})"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Header names are in lower case, each once."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_call(event: Event) -> Call:
    found = _read(event, _RestEvent)
    authorizer = found.request_context.authorizer
    claims = None if authorizer is None else authorizer.claims
    return Call(
        method=found.http_method,
        path=found.resource,
        query=_query(found.multi_value_query_string_parameters, found.query_string_parameters),
        headers=_headers(found.multi_value_headers, found.headers),
        body=_body(found.body, is_base64=bool(found.is_base64_encoded)),
        claims=None if claims is None else {name: _claim(name, value) for name, value in claims.items()},
        request_id=found.request_context.request_id,
    )


def render_reply(reply: Reply) -> Result:
    """Every body of ours is JSON, which is text."""
    return {
        "statusCode": reply.status,
        "headers": dict(reply.headers),
        "body": reply.body.decode(),
        "isBase64Encoded": False,
    }


#: Claims that are times: API Gateway makes a text of each.
_TIMES: Final = frozenset({"exp", "iat", "nbf", "auth_time"})
_GROUPS: Final = "cognito:groups"


def _claim(name: str, value: Any) -> object:
    """A claim as the token has it. What it cannot be is left as it is, for the rules about tokens to refuse."""
    if not isinstance(value, str):
        return value
    if name in _TIMES:
        return _seconds(value)
    if name == _GROUPS:
        return _groups(value)
    return value


def _groups(text: str) -> list[str]:
    """Out of "[a b]", as HTTP APIs write a list, or "a,b", as REST APIs do, which a group with a comma breaks in two.

    No group has a space. (docs/aws-differences.md says what a comma does.)
    """
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1].split()
    return [group for group in text.split(",") if group]


def _seconds(text: str) -> object:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return timegm(strptime(text, "%a %b %d %H:%M:%S UTC %Y"))
    except ValueError:
        return text


# -- the WebSocket API: the upgrade ------------------------------------------------------------------------------------


class Admission(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the authorizer hands on to `$connect`.

    `chat_ids` are the URL's, as JSON text: a hint, since the subscription checks the permission again. `limited`: a
    ticket says which chats the connection may have, and only the ticket's row has room for them.
    """

    user_id: str
    scopes: str = ""
    expires_at: int
    chat_ids: str = "[]"
    limited: bool = False

    @classmethod
    def of(cls, identity: Identity, chat_ids: Iterable[str]) -> "Admission":
        return cls(
            user_id=identity.user_id,
            scopes=" ".join(sorted(identity.scopes)),
            expires_at=identity.expires_at,
            chat_ids=msgspec.json.encode(tuple(chat_ids)).decode(),
            limited=identity.chat_ids is not None,
        )

    @property
    def identity(self) -> Identity:
        """Without the ticket's limit."""
        return Identity(user_id=self.user_id, scopes=frozenset(self.scopes.split()), expires_at=self.expires_at)

    @property
    def chats(self) -> list[str]:
        return msgspec.json.decode(self.chat_ids, type=list[str])


class _Misshapen(msgspec.Struct, frozen=True, kw_only=True):
    """In the place of an admission: what is wrong with the upgrade's form, for `$connect` to say."""

    code: str
    refusal: str
    field: str = ""


class Upgrade(msgspec.Struct, frozen=True, kw_only=True):
    """A WebSocket that is being opened: to the authorizer (`method_arn`), then to `$connect` (`verdict`, the former's).

    It carries credentials, so nothing logs it.
    """

    connection_id: str
    request: UpgradeRequest
    request_id: str
    source_ip: str
    user_agent: str
    method_arn: str | None
    verdict: Admission | Refusal | None

    def __repr__(self) -> str:
        return f"Upgrade({self.connection_id!r})"


def read_upgrade(event: Event) -> Upgrade:
    found = _read(event, _SocketEvent)
    context = found.request_context
    source = context.identity or _Source()
    query = found.multi_value_query_string_parameters
    return Upgrade(
        connection_id=context.connection_id,
        request=UpgradeRequest(
            path="",
            query=_pairs(query, found.query_string_parameters),
            headers=_by_name(_headers(found.multi_value_headers, found.headers)),
            key="",
        ),
        request_id=context.request_id or "",
        source_ip=source.source_ip or "",
        user_agent=source.user_agent or "",
        method_arn=found.method_arn,
        verdict=None if context.authorizer is None else _verdict(context.authorizer),
    )


def _verdict(context: Event) -> Admission | Refusal:
    if "refusal" in context:
        told = msgspec.convert(context, _Misshapen)
        return Refusal(told.code, told.refusal, field=told.field or None)
    return msgspec.convert(context, Admission, strict=False)


def render_verdict(upgrade: Upgrade, verdict: Admission | Refusal) -> Result:
    """What an authorizer can say: come in, 403, and by raising just this exception 401; any other is a 500.

    For a 400 it has no status: such an upgrade passes, and `$connect` refuses it.
    """
    context: Result = {}
    if isinstance(verdict, Admission):
        context = msgspec.to_builtins(verdict)
        if len(msgspec.json.encode(context)) > MAX_CONTEXT:
            verdict = invalid("chatId", "These are too many chats for one URL; subscribe to the others.")
    if isinstance(verdict, Refusal):
        if verdict.status == HTTPStatus.UNAUTHORIZED:
            raise Exception("Unauthorized")  # noqa: TRY002 - API Gateway knows it by this text
        if verdict.status == HTTPStatus.FORBIDDEN:
            return _policy("Deny", upgrade, "nobody")
        if verdict.status != HTTPStatus.BAD_REQUEST:
            raise verdict
        misshapen = _Misshapen(code=verdict.code, refusal=verdict.message, field=verdict.field or "")
        return {**_policy("Allow", upgrade, "nobody"), "context": msgspec.to_builtins(misshapen)}
    return {**_policy("Allow", upgrade, verdict.user_id), "context": context}


def _policy(effect: str, upgrade: Upgrade, principal: str) -> Result:
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": upgrade.method_arn}
    return {"principalId": principal, "policyDocument": {"Version": "2012-10-17", "Statement": [statement]}}


def render_upgrade(upgrade: Upgrade, answer: str | Refusal | None) -> Result:
    """`$connect`'s: the subprotocol is the one header that it can add to an upgrade, a status its one refusal."""
    if isinstance(answer, Refusal):
        body = refusal_body(answer, upgrade.request_id).decode()
        return {"statusCode": answer.status, "headers": dict(refusal_headers(answer)), "body": body}
    if answer is not None:
        return {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": answer}}
    return {"statusCode": 200}


# -- the WebSocket API: what goes over it ------------------------------------------------------------------------------


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A message from a client; `text` is None where it was binary. Nothing logs it."""

    connection_id: str
    request_id: str
    text: bytes | None

    def __repr__(self) -> str:
        return f"Frame({self.connection_id!r})"


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that has ended."""

    connection_id: str


def read_socket_event(event: Event) -> Upgrade | Frame | Left:
    """By what happened, never by the route: a frame may name any action, `$connect` too."""
    context = _read(event, _SocketEvent).request_context
    if context.event_type == "DISCONNECT":
        return Left(connection_id=context.connection_id)
    return read_upgrade(event) if context.event_type == "CONNECT" else read_frame(event)


def read_frame(event: Event) -> Frame:
    found = _read(event, _SocketEvent)
    context = found.request_context
    text = None if found.is_base64_encoded else (found.body or "").encode("utf-8", "surrogatepass")
    return Frame(connection_id=context.connection_id, request_id=context.request_id or "", text=text)


def render_frame(frame: bytes | None) -> Result:
    """The route's response: one frame to whoever sent one, or none."""
    return {"statusCode": 200} if frame is None else {"statusCode": 200, "body": frame.decode()}


# -- queues, and the clock ---------------------------------------------------------------------------------------------


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A message as SQS hands it over. `receives` counts this one, too."""

    transport_id: str
    receipt: str
    body: str
    receives: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """`queue` is the queue's own name, in the account and Region of the function."""

    queue: str
    records: Sequence[Record]


def read_batch(event: Event) -> Batch:
    records = _read(event, _SqsEvent).records
    return Batch(
        queue=records[0].event_source_arn.rpartition(":")[2],
        records=[
            Record(
                transport_id=record.message_id,
                receipt=record.receipt_handle,
                body=record.body,
                receives=int(record.attributes["ApproximateReceiveCount"]),
            )
            for record in records
        ],
    )


def render_failures(transport_ids: Iterable[str]) -> Result:
    """Which messages of the batch are to come again."""
    return {"batchItemFailures": [{"itemIdentifier": transport_id} for transport_id in transport_ids]}


def is_minute(event: Event) -> bool:
    """Whether EventBridge's clock calls, which has no connection to speak of."""
    return "requestContext" not in event and _read(event, _ScheduleEvent).source in ("aws.events", "aws.scheduler")


# -- what all requests have --------------------------------------------------------------------------------------------


def _pairs(many: _Many, one: _One) -> list[tuple[str, str]]:
    if many:
        return [(name, value) for name, values in many.items() for value in values or ()]
    return [(name, value) for name, value in (one or {}).items() if value is not None]


def _headers(many: _Many, one: _One) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in _pairs(many, one)]


def _by_name(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return values


def _query(many: _Many, one: _One) -> bytes:
    """As it may have been in the URL: API Gateway hands over what it has decoded."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in _pairs(many, one)).encode()


def _body(body: str | None, *, is_base64: bool) -> bytes:
    if body is None:
        return b""
    return b64decode(body) if is_base64 else body.encode("utf-8", "surrogatepass")
