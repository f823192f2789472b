"""Events as functions are handed them: AWS's, as its documentation has them, and the emulator's, as it makes them.

    Dialect.rest, authorizer, connect, message, disconnect, batch, minute -> a dict of each test's own

Where they differ nothing may depend on it: null or absent, header names as they were sent or in lower case, `claims`
and an authorizer's context in another form of text.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

Json = dict[str, Any]

CONNECTION: Final = "L0SM9cOFvHcCIhw="
ARN: Final = "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/dvl/$connect"
#: The hour that a token of these events is good for begins here: 2027-01-15, 08:00.
ISSUED: Final = 1_800_000_000
CLAIMS: Final[Json] = {
    "sub": "alice",
    "iss": "https://issuer.example.com",
    "client_id": "web",
    "origin_jti": "0f5d1c1e-1fd4-4a4f-a4b4-0c0b4a0c8b0e",
    "event_id": "4b0d0b4b-5d6c-4d2a-8f1b-6d1a4c1d6a51",
    "token_use": "access",
    "scope": "aws.cognito.signin.user.admin",
    "auth_time": ISSUED,
    "exp": ISSUED + 3600,
    "iat": ISSUED,
    "jti": "7cd6a1d2-4a64-4f28-a2cf-6e2c5b1a2f5e",
    "username": "alice",
}


def _many(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    many: dict[str, list[str]] = {}
    for name, value in pairs:
        many.setdefault(name, []).append(value)
    return many


def _last(many: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {name: values[-1] for name, values in many.items()}


class Aws:
    """As API Gateway's, SQS's and EventBridge's pages show them."""

    name = "aws"

    def rest(
        self,
        method: str,
        resource: str,
        *,
        query: str = "",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        claims: Mapping[str, object] | None = CLAIMS,
    ) -> Json:
        many = _many([("Accept", "*/*"), ("Host", "rest.example.com"), ("X-Forwarded-Proto", "https"), *headers])
        parameters = parse_qs(query, keep_blank_values=True)
        authorizer = {} if claims is None else {"authorizer": {"claims": {k: _text(k, v) for k, v in claims.items()}}}
        return {
            "resource": resource,
            "path": f"/mapped{resource}",
            "httpMethod": method,
            "headers": _last(many),
            "multiValueHeaders": many,
            "queryStringParameters": _last(parameters) if parameters else None,
            "multiValueQueryStringParameters": parameters or None,
            "pathParameters": None,
            "stageVariables": None,
            "requestContext": {
                "resourceId": "2gxmpl",
                **authorizer,
                "resourcePath": resource,
                "httpMethod": method,
                "extendedRequestId": "JJbxmplHYosFVYQ=",
                "requestTime": "15/Jan/2027:08:00:03 +0000",
                "path": f"/dvl{resource}",
                "accountId": "123456789012",
                "protocol": "HTTP/1.1",
                "stage": "dvl",
                "domainPrefix": "70ixmpl4fl",
                "requestTimeEpoch": 1_800_000_003_000,
                "requestId": "e43a8f2a-xmpl-4f0c-8f0a-9b5d2a9d1a2b",
                "identity": {
                    "cognitoIdentityPoolId": None,
                    "accountId": None,
                    "cognitoIdentityId": None,
                    "caller": None,
                    "sourceIp": "192.0.2.1",
                    "principalOrgId": None,
                    "accessKey": None,
                    "cognitoAuthenticationType": None,
                    "cognitoAuthenticationProvider": None,
                    "userArn": None,
                    "userAgent": "curl/8.5.0",
                    "user": None,
                },
                "domainName": "70ixmpl4fl.execute-api.us-east-1.amazonaws.com",
                "apiId": "70ixmpl4fl",
            },
            "body": b64encode(body).decode() if body else None,
            "isBase64Encoded": bool(body),
        }

    def authorizer(self, query: str = "", headers: Sequence[tuple[str, str]] = ()) -> Json:
        return {
            "type": "REQUEST",
            "methodArn": ARN,
            **self._upgrade(query, headers),
            "stageVariables": {},
            "requestContext": self._context("$connect", "CONNECT"),
        }

    def connect(
        self, context: Mapping[str, Any] | None, query: str = "", headers: Sequence[tuple[str, str]] = ()
    ) -> Json:
        return {
            **self._upgrade(query, headers),
            "requestContext": self._context("$connect", "CONNECT", context),
            "isBase64Encoded": False,
        }

    def message(self, body: str, *, route: str = "$default", connection: str = CONNECTION) -> Json:
        context = self._context(route, "MESSAGE", connection=connection) | {"messageId": "L0SM9ePKPHcCIhw="}
        return {"requestContext": context, "body": body, "isBase64Encoded": False}

    def disconnect(self, connection: str = CONNECTION) -> Json:
        context = self._context("$disconnect", "DISCONNECT", connection=connection)
        return {
            "headers": {"Host": "ws.example.com", "x-api-key": "", "X-Forwarded-For": "", "x-restapi": ""},
            "multiValueHeaders": {"Host": ["ws.example.com"], "x-api-key": [""]},
            "requestContext": context | {"disconnectStatusCode": 1001, "disconnectReason": "Going away"},
            "isBase64Encoded": False,
        }

    def batch(self, queue: str, *bodies: str, receives: int = 1) -> Json:
        return {
            "Records": [
                {
                    "messageId": f"message-{index}",
                    "receiptHandle": f"handle-{index}",
                    "body": body,
                    "attributes": {
                        "ApproximateReceiveCount": str(receives),
                        "SentTimestamp": "1800000003000",
                        "SequenceNumber": "18849496460467696128",
                        "MessageGroupId": "c1",
                        "SenderId": "AIDAIO23YVJENQZJOL4VO",
                        "MessageDeduplicationId": "1",
                        "ApproximateFirstReceiveTimestamp": "1800000003050",
                    },
                    "messageAttributes": {},
                    "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
                    "eventSource": "aws:sqs",
                    "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
                    "awsRegion": "us-east-1",
                }
                for index, body in enumerate(bodies)
            ]
        }

    def minute(self) -> Json:
        return {
            "version": "0",
            "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": "123456789012",
            "time": "2027-01-15T08:01:00Z",
            "region": "us-east-1",
            "resources": ["arn:aws:events:us-east-1:123456789012:rule/Minute"],
            "detail": {},
        }

    def _upgrade(self, query: str, headers: Sequence[tuple[str, str]]) -> Json:
        many = _many(
            [
                ("Host", "ws.example.com"),
                ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("Sec-WebSocket-Version", "13"),
                *headers,
            ]
        )
        upgrade: Json = {"headers": _last(many), "multiValueHeaders": many}
        if query:
            parameters = parse_qs(query, keep_blank_values=True)
            upgrade |= {
                "queryStringParameters": _last(parameters),
                "multiValueQueryStringParameters": parameters,
            }
        return upgrade

    def _context(
        self,
        route: str,
        kind: str,
        context: Mapping[str, Any] | None = None,
        connection: str = CONNECTION,
    ) -> Json:
        authorizer = (
            {} if context is None else {"authorizer": {**context, "principalId": "alice", "integrationLatency": 251}}
        )
        return {
            "routeKey": route,
            **authorizer,
            "eventType": kind,
            "extendedRequestId": "L0SM9GTXPHcFhPQ=",
            "requestTime": "15/Jan/2027:08:00:03 +0000",
            "messageDirection": "IN",
            "stage": "dvl",
            "connectedAt": 1_800_000_003_000,
            "requestTimeEpoch": 1_800_000_003_001,
            "identity": {"userAgent": "Mozilla/5.0", "sourceIp": "192.0.2.1"},
            "requestId": "L0SM9GTXPHcFhPQ=",
            "domainName": "a1b2c3d4e5.execute-api.us-east-1.amazonaws.com",
            "connectionId": connection,
            "apiId": "a1b2c3d4e5",
        }


def _text(name: str, value: object) -> str:
    """How API Gateway writes a claim."""
    if name == "exp":
        return "Fri Jan 15 09:00:00 UTC 2027" if value == ISSUED + 3600 else "Fri Jan 15 07:00:00 UTC 2027"
    if name in ("iat", "nbf"):
        return "Fri Jan 15 08:00:00 UTC 2027"
    if isinstance(value, list):
        return ",".join(value)
    return str(value)


class Ministack(Aws):
    """As ministack 1.5.33 makes them: no doubled headers, nulls, and everything of a context a text."""

    name = "ministack"

    def rest(
        self,
        method: str,
        resource: str,
        *,
        query: str = "",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        claims: Mapping[str, object] | None = CLAIMS,
    ) -> Json:
        lower = [(name.lower(), value) for name, value in [("Accept", "*/*"), *headers]]
        event = super().rest(method, resource, query=query, headers=lower, body=body, claims=None)
        one = {name.lower(): value for name, value in event["headers"].items()}
        event |= {"version": "1.0", "path": resource, "headers": one}
        event["multiValueHeaders"] = {name: [value] for name, value in one.items()}
        event["requestContext"]["identity"] = {"sourceIp": "127.0.0.1", "userAgent": ""}
        if claims is not None:
            texts = {
                name: f"[{' '.join(value)}]" if isinstance(value, list) else str(value)
                for name, value in claims.items()
            }
            event["requestContext"]["authorizer"] = {"claims": texts}
        return event

    def connect(
        self, context: Mapping[str, Any] | None, query: str = "", headers: Sequence[tuple[str, str]] = ()
    ) -> Json:
        texts = None
        if context is not None:
            texts = {
                name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in context.items()
            }
        return super().connect(texts, query, headers) | {"body": ""}

    def disconnect(self, connection: str = CONNECTION) -> Json:
        context = self._context("$disconnect", "DISCONNECT", connection=connection)
        context |= {"disconnectReason": "", "disconnectStatusCode": 1006}
        return {"requestContext": context, "body": "", "isBase64Encoded": False}

    def batch(self, queue: str, *bodies: str, receives: int = 1) -> Json:
        event = super().batch(queue, *bodies, receives=receives)
        for record in event["Records"]:
            record["attributes"] = {
                name: record["attributes"][name]
                for name in ("ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp")
            }
        return event

    def _upgrade(self, query: str, headers: Sequence[tuple[str, str]]) -> Json:
        upgrade = super()._upgrade(query, headers)
        one = {name.lower(): value for name, value in upgrade["headers"].items()}
        upgrade |= {"headers": one, "multiValueHeaders": {name: [value] for name, value in one.items()}}
        upgrade.setdefault("queryStringParameters", None)
        upgrade.setdefault("multiValueQueryStringParameters", None)
        return upgrade

    def _context(
        self,
        route: str,
        kind: str,
        context: Mapping[str, Any] | None = None,
        connection: str = CONNECTION,
    ) -> Json:
        made = super()._context(route, kind, context, connection)
        del made["messageDirection"]
        if context is not None:
            made["authorizer"] = {**context, "principalId": "alice"}
        return made


DIALECTS: Final[tuple[Aws, ...]] = (Aws(), Ministack())
