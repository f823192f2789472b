"""THE REST DOOR, as data: what is served where, and what it may answer (docs/wire.md, REST).

ROUTES -> http.py serves them, openapi.py describes them
"""

from typing import Final

import msgspec

from tocsin.gateways.records import (
    BatchResults,
    ConnectionState,
    ConnectQuery,
    Grant,
    GrantedPermission,
    MessagePage,
    MessagesQuery,
    MetricReport,
    PermissionsPage,
    PermissionsQuery,
    PublishBatch,
    Published,
    Revocation,
    RevokeQuery,
    Ticket,
    TicketRequest,
)
from tocsin.message import MAX_MESSAGE_BYTES, PublishRequest

MAX_BATCH_BYTES: Final = 8 * 1024 * 1024


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """`path` stands below the base path; `operation` names the handler; `refusals` are codes beyond `COMMON`.

    `body` is JSON, unless it is `bytes`. `scope` is what the token must allow, where the user's roles do not decide.
    """

    method: str
    path: str
    operation: str
    summary: str
    status: int = 200
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | type[bytes] | None = None
    body_required: bool = True
    max_body: int = MAX_MESSAGE_BYTES
    headers: tuple[str, ...] = ()
    answer: type[msgspec.Struct] | None = None
    refusals: tuple[str, ...] = ()
    scope: str | None = None
    public: bool = False


#: What any route may answer.
COMMON: Final = ("bad_request", "invalid_argument", "rate_limited", "internal", "unavailable")
UNIDENTIFIED: Final = ("unauthorized", "invalid_token", "token_expired")
_JSON: Final = ("invalid_json", "message_too_large", "unsupported_media_type")
_PERMISSION: Final = ("forbidden", "last_owner", "insufficient_storage")
CONNECTION: Final = "/@connections/{connectionId}"

ROUTES: Final = (
    Route(
        method="POST",
        path="/publish",
        operation="publish",
        summary="Publish a message",
        status=202,
        body=PublishRequest,
        headers=("Idempotency-Key",),
        answer=Published,
        refusals=(*_JSON, "forbidden", "idempotency_conflict", "insufficient_storage"),
        scope="publish:any",
    ),
    Route(
        method="POST",
        path="/publish/batch",
        operation="publishBatch",
        summary="Publish up to 500 messages in order",
        body=PublishBatch,
        max_body=MAX_BATCH_BYTES,
        answer=BatchResults,
        refusals=(*_JSON, "insufficient_storage"),  # the entries' own stand in the answer
        scope="publish:any",
    ),
    Route(
        method="GET",
        path="/messages",
        operation="listMessages",
        summary="Read a chat's history",
        query=MessagesQuery,
        answer=MessagePage,
        refusals=("invalid_cursor", "forbidden"),
        scope="messages:read",
    ),
    Route(
        method="POST",
        path="/permissions",
        operation="grant",
        summary="Grant a role in a chat",
        body=Grant,
        answer=GrantedPermission,
        refusals=(*_JSON, *_PERMISSION),
        scope="permissions:write",
    ),
    Route(
        method="DELETE",
        path="/permissions",
        operation="revoke",
        summary="Revoke a user's role in a chat",
        query=RevokeQuery,
        answer=Revocation,
        refusals=(*_PERMISSION, "not_found"),
        scope="permissions:write",
    ),
    Route(
        method="GET",
        path="/permissions",
        operation="listPermissions",
        summary="List a user's or a chat's permissions",
        query=PermissionsQuery,
        answer=PermissionsPage,
        refusals=("invalid_cursor", "forbidden"),
        scope="permissions:write",
    ),
    Route(
        method="POST",
        path="/metrics",
        operation="reportMetrics",
        summary="Report what a client measured",
        status=202,
        body=MetricReport,
        refusals=_JSON,
    ),
    Route(
        method="POST",
        path="/tickets",
        operation="offerTicket",
        summary="Get a ticket for one WebSocket connection",
        body=TicketRequest,
        body_required=False,
        answer=Ticket,
        refusals=_JSON,
    ),
    Route(
        method="POST",
        path=CONNECTION,
        operation="sendToConnection",
        summary="Send a text message to a connection, as it is",
        body=bytes,
        refusals=("unsupported_data", "message_too_large", "forbidden", "gone"),
        scope="connections:manage",
    ),
    Route(
        method="GET",
        path=CONNECTION,
        operation="showConnection",
        summary="Show a connection",
        answer=ConnectionState,
        refusals=("forbidden", "gone"),
        scope="connections:manage",
    ),
    Route(
        method="DELETE",
        path=CONNECTION,
        operation="closeConnection",
        summary="Close a connection",
        status=204,
        refusals=("forbidden", "gone"),
        scope="connections:manage",
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation="describe",
        summary="This document",
        public=True,
    ),
    Route(
        method="GET",
        path="",
        operation="connect",
        summary="Open a WebSocket (docs/asyncapi.yaml says what goes over it)",
        status=101,
        query=ConnectQuery,
        refusals=("invalid_ticket", "forbidden", "upgrade_required"),
    ),
)
