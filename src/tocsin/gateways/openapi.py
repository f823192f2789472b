"""The REST door described: OpenAPI 3.1, made of the route table and of the types that decode.

    routes.ROUTES, records, errors.STATUS -> document -> GET /openapi.json

Rule: nothing is described twice. What a type cannot say (a payload is carried as bytes, a code is one of a table)
stands in REFINEMENTS, and tests hold the whole document against a running service.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from tocsin.components.metric_collector import MAX_DIMENSIONS
from tocsin.errors import STATUS
from tocsin.gateways import records
from tocsin.gateways.asgi import RETRIED
from tocsin.gateways.handshake import PROTOCOL_VERSION
from tocsin.gateways.routes import COMMON, CONNECTION, ROUTES, UNIDENTIFIED, Route
from tocsin.message import Payload, PublishRequest
from tocsin.metrics import CLIENT_METRICS

Json = dict[str, object]

VERSION: Final = "1"
"""Of the contract, as in the subprotocol `tocsin.v1`."""
_ANY_STATUS: Final = (408, 431)
"""The front's, before a request is whole; both are `bad_request`."""
_SCHEMA: Final = "#/components/schemas/{name}"
_CHAT_ID: Final = msgspec.json.schema(records.ChatId)
_PRINTABLE: Final[Json] = {"type": "string", "pattern": r"^[\x20-\x7e]{1,128}$"}

#: Schema -> property -> what is said beyond its type.
REFINEMENTS: Final[dict[str, dict[str, Json]]] = {
    "PublishRequest": {
        "payload": {"$ref": "#/components/schemas/Payload"},
        "targetChannel": {"pattern": _CHAT_ID["pattern"]},
        "messageDeduplicationId": {"anyOf": [_PRINTABLE, {"type": "null"}]},
    },
    "Payload": {
        "chatId": _CHAT_ID,
        "eventType": {"minLength": 1, "maxLength": 128},
        "content": {"description": "Any JSON."},
    },
    "BatchResults": {
        "results": {"items": {"anyOf": [{"$ref": _SCHEMA.format(name=name)} for name in ("Published", "Refused")]}}
    },
    "ReportedMetric": {
        "name": {"anyOf": [{"enum": list(CLIENT_METRICS)}, {"pattern": r"^custom\.[a-z0-9_.]{1,64}$"}]},
        "unit": {"anyOf": [{"type": "string", "maxLength": 32}, {"type": "null"}]},
        "timestamp": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
        "dimensions": {"maxProperties": MAX_DIMENSIONS},
    },
    "Problem": {"code": {"enum": list(STATUS)}},
    "Fault": {"code": {"enum": list(STATUS)}},
}
#: Operation -> the specification's own example.
EXAMPLES: Final[dict[str, Json]] = {
    "publish": {
        "targetChannel": "WebSocket",
        "messageType": "fifo",
        "payload": {
            "chatId": "chat-abc123",
            "eventType": "notification",
            "content": "Your order has shipped!",
            "requestSequence": True,
        },
    },
    "grant": {"userId": "user-123", "chatId": "chat-abc123", "role": "member"},
}


def document(base_path: str, routes: Sequence[Route] = ROUTES) -> Json:
    """The whole document, ready to be encoded; paths begin with the base path."""
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(base_path.rstrip("/") + route.path or "/", {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tocsin",
            "version": VERSION,
            "description": "Notifications in which every message has a number, and every number can be fetched.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "responses": {_name(status): _refused(status) for status in (*sorted({*STATUS.values()}), *_ANY_STATUS)},
            "headers": {
                "X-Request-Id": {"description": "The client's own, or a new one.", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
                "WWW-Authenticate": {"schema": {"const": "Bearer"}},
                "Upgrade": {"schema": {"const": "websocket"}},
                "Sec-WebSocket-Version": {"schema": {"const": PROTOCOL_VERSION}},
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
                "token": {"type": "apiKey", "in": "query", "name": "token"},
            },
        },
    }


def _operation(route: Route) -> Json:
    operation: Json = {"operationId": route.operation, "summary": route.summary}
    if route.path == CONNECTION:
        operation["description"] = (
            f"As in API Gateway's management API; a refusal has `x-amzn-ErrorType`. Needs the scope `{route.scope}`."
        )
    elif route.scope is not None:
        operation["description"] = f"The scope `{route.scope}` allows it beyond the user's own roles."
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": route.body_required, "content": _body(route, route.body)}
    if route.public:
        operation["security"] = []
    elif route.operation == "connect":
        operation["security"] = [{"ticket": []}, {"bearer": []}, {"token": []}]
    codes = (*COMMON, *(() if route.public else UNIDENTIFIED), *route.refusals)
    refused = sorted({*(STATUS[code] for code in codes), *_ANY_STATUS})
    operation["responses"] = {
        str(route.status): _accepted(route),
        **{str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in refused},
    }
    return operation


def _parameters(route: Route) -> list[Json]:
    parameters: list[Json] = [
        {"name": name, "in": "header", "required": False, "schema": _PRINTABLE} for name in route.headers
    ]
    if "{" in route.path:
        name = route.path.partition("{")[2].rstrip("}")
        parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    if route.query is not None:
        _, schemas = msgspec.json.schema_components([route.query])
        schema = schemas[route.query.__name__]
        for name, said in schema["properties"].items():
            required = name in schema["required"]
            parameters.append({"name": name, "in": "query", "required": required, "schema": _never_null(said)})
    return parameters


def _never_null(said: Json) -> Json:
    """A parameter is there or not; only in JSON it may be null."""
    members = said.get("anyOf")
    if isinstance(members, list):
        (said,) = [member for member in members if member != {"type": "null"}]
    return said


def _body(route: Route, kind: type[msgspec.Struct] | type[bytes]) -> Json:
    if not issubclass(kind, msgspec.Struct):
        return {"*/*": {}}
    media: Json = {"schema": {"$ref": _SCHEMA.format(name=kind.__name__)}}
    if route.operation in EXAMPLES:
        media["example"] = EXAMPLES[route.operation]
    return {"application/json": media}


def _accepted(route: Route) -> Json:
    response: Json = {
        "description": HTTPStatus(route.status).phrase,
        "headers": {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}},
    }
    if route.answer is not None:
        schema: Json = {"$ref": _SCHEMA.format(name=route.answer.__name__)}
        response["content"] = {"application/json": {"schema": schema}}
    elif route.operation == "describe":
        response["content"] = {"application/json": {"schema": {"type": "object"}}}
    return response


def _refused(status: int) -> Json:
    """What every refusal with this status looks like, and the codes that it may have."""
    codes = [code for code in STATUS if STATUS[code] == status] or ["bad_request"]
    names = ["X-Request-Id"]
    if status in RETRIED:
        names.append("Retry-After")
    if status == HTTPStatus.UNAUTHORIZED:
        names.append("WWW-Authenticate")
    elif status == HTTPStatus.UPGRADE_REQUIRED:
        names += ["Upgrade", "Sec-WebSocket-Version"]
    problem = {"allOf": [{"$ref": _SCHEMA.format(name="Problem")}, {"properties": {"code": {"enum": codes}}}]}
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(codes)}",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {"application/json": {"schema": problem}},
    }


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")


def _schemas(routes: Sequence[Route]) -> Json:
    kinds = {route.body for route in routes} | {route.answer for route in routes}
    structs = [kind for kind in kinds if kind is not None and issubclass(kind, msgspec.Struct)]
    named = [*structs, PublishRequest, Payload, records.Published, records.Refused, records.Problem]
    _, schemas = msgspec.json.schema_components(sorted(named, key=lambda kind: kind.__name__), ref_template=_SCHEMA)
    for name, refined in REFINEMENTS.items():
        properties = schemas[name]["properties"]
        for part, said in refined.items():
            properties[part] = {**properties[part], **said}
    return dict(sorted(schemas.items()))
