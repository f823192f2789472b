"""The REST door: each route of docs/wire.md, from the request to the component and back.

    front, aws_rest -> HttpApi -> Shell (asgi.py) -> who asks -> a handler: body, query -> component -> Answer

Rules:
- The order of refusals is the order of a handler's lines: token, body (413, 415), query and JSON (400); then the
  component, which refuses 403 before 429 before 409.
- Credentials are taken from the one Authorization header and from nowhere else; an identity that was passed in
  (admin.py) needs none.
- History is sent as it is stored: ready bodies, joined.

Long because each route's way, from its request to the component and back, is read in one place.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Final

import msgspec

from tocsin import strict_json
from tocsin.components.message_retrieval import Range
from tocsin.errors import CloseCode, Refusal, invalid
from tocsin.gateways import batch, openapi, records
from tocsin.gateways.asgi import (
    Answer,
    Header,
    Query,
    Receive,
    Request,
    Resource,
    Scope,
    Send,
    Shell,
    answer_json,
    refusal_answer,
)
from tocsin.gateways.connect_request import read_connect_request
from tocsin.gateways.cursors import Cursors, Question
from tocsin.gateways.handshake import UpgradeRequest, upgrade_fault
from tocsin.gateways.routes import MAX_BATCH_BYTES, ROUTES, Route
from tocsin.identity import Identity
from tocsin.message import MAX_MESSAGE_BYTES, PublishRequest, parse_rfc3339, rfc3339
from tocsin.service import Service
from tocsin.tables import Permission

CONNECTIONS_SCOPE: Final = "connections:manage"
TICKET_SECONDS: Final = 60
#: API Gateway's names for what its management API refuses; others are bad requests below 500, and its own faults above.
ERROR_TYPES: Final = {
    403: "ForbiddenException",
    410: "GoneException",
    413: "PayloadTooLargeException",
    429: "LimitExceededException",
}

_publish_body: Final = msgspec.json.Decoder(PublishRequest)
_grant_body: Final = msgspec.json.Decoder(records.Grant)
_metrics_body: Final = msgspec.json.Decoder(records.MetricReport)
_ticket_body: Final = msgspec.json.Decoder(records.TicketRequest)
_messages_query: Final = Query(records.MessagesQuery)
_permissions_query: Final = Query(records.PermissionsQuery)
_revoke_query: Final = Query(records.RevokeQuery)

Identify = Callable[[Request], Awaitable[Identity]]
Handler = Callable[[Identity, Request], Awaitable[Answer]]


class HttpApi:
    def __init__(
        self,
        service: Service,
        *,
        base_path: str,
        cursors: Cursors,
        allowed_origins: frozenset[str],
        new_id: Callable[[], str],
        routes: Sequence[Route] = ROUTES,
        described: Sequence[Route] = ROUTES,
        identify: Identify | None = None,
        max_batch: int = MAX_BATCH_BYTES,
    ) -> None:
        """`routes` are served here; `described` are all that the API has.

        `identify` says who asks, or refuses; None: by the Authorization header. `max_batch` in bytes.
        """
        self._service: Final = service
        self._cursors: Final = cursors
        self._base_path: Final = base_path
        self._routes: Final = routes
        self._described: Final = described
        self._max_batch: Final = max_batch
        self._handlers: Final[dict[str, Handler]] = {
            "publish": self._publish,
            "publishBatch": self._publish_batch,
            "listMessages": self._list_messages,
            "grant": self._grant,
            "revoke": self._revoke,
            "listPermissions": self._list_permissions,
            "reportMetrics": self._report_metrics,
            "offerTicket": self._offer_ticket,
            "sendToConnection": self._send_to_connection,
            "showConnection": self._show_connection,
            "closeConnection": self._close_connection,
        }
        resources = self.resources(base_path, identify or self._identify)
        if any(route.operation == "connect" for route in routes):
            resources[base_path] = Resource(methods={"GET": self._connect})
        self._shell: Final = Shell(
            resources,
            new_id=new_id,
            refused=lambda code: service.engine.metrics.count("refusals", label=code),
            allowed_origins=allowed_origins,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._shell(scope, receive, send)

    def resources(self, base_path: str, identify: Identify) -> dict[str, Resource]:
        """All that is below the base path; `identify` says who asks, or refuses."""
        methods: dict[str, dict[str, Callable[[Request], Awaitable[Answer]]]] = {}
        for route in self._routes:
            if route.path:
                path = base_path.rstrip("/") + route.path.partition("{")[0]
                methods.setdefault(path, {})[route.method] = self._bind(route, identify)
        return {
            path: Resource(methods=found, is_tree=True, refusal_header=_error_type)
            if path.endswith("/")
            else Resource(methods=found)
            for path, found in methods.items()
        }

    def _bind(self, route: Route, identify: Identify) -> Callable[[Request], Awaitable[Answer]]:
        if route.public:
            return self._describe
        handler = self._handlers[route.operation]

        async def handle(request: Request) -> Answer:
            return await handler(await identify(request), request)

        return handle

    async def _identify(self, request: Request) -> Identity:
        values = request.header_values(b"authorization")
        if len(values) > 1:
            raise Refusal("bad_request", "There is more than one Authorization header.")
        scheme, _, token = (values[0] if values else "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal("unauthorized", "A token is needed: Authorization: Bearer <token>.")
        return await self._service.tokens.check(token.strip(" "), self._service.engine.clock.now())

    # -- publishing ----------------------------------------------------------------------------------------------------

    async def _publish(self, identity: Identity, request: Request) -> Answer:
        body = await request.json_body(MAX_MESSAGE_BYTES)
        request.refuse_query()
        wanted = strict_json.decode(body, _publish_body)
        key = _idempotency_key(request)
        try:
            receipt = await self._service.a2p_publisher.publish(identity, wanted, key)
        except Refusal as refusal:
            return refusal_answer(refusal, request.id)  # what publishers refuse, they have counted
        return answer_json(batch.published(receipt), 202)

    async def _publish_batch(self, identity: Identity, request: Request) -> Answer:
        body = await request.json_body(self._max_batch)
        request.refuse_query()
        if _idempotency_key(request) is not None:
            raise invalid("Idempotency-Key", "The entries of a batch have their own messageDeduplicationId.")
        entries = await batch.read(body)
        try:
            answers = await self._service.a2p_publisher.publish_batch(identity, entries)
        except Refusal as refusal:
            return refusal_answer(refusal, request.id)
        return answer_json(batch.render(answers))

    # -- history -------------------------------------------------------------------------------------------------------

    async def _list_messages(self, identity: Identity, request: Request) -> Answer:
        query = _messages_query.decode(request)
        wanted = _range(query)
        question: Question = (
            "messages",
            wanted.chat_id,
            "number" if wanted.by_number else "time",
            wanted.first,
            wanted.last,
            "asc" if wanted.ascending else "desc",
        )
        if query.start_key is not None:
            wanted = msgspec.structs.replace(wanted, after=self._cursors.open(query.start_key, question))
        history = await self._service.message_retrieval.retrieve(identity, wanted)
        page, head = history.page, history.head
        following = "null" if page.next is None else f'"{self._cursors.seal(page.next, question)}"'
        body = b'{"messages":[%b],"nextStartKey":%b,"headSequence":%d,"oldestSequence":%d,"epoch":"%b"}' % (
            b",".join(page.bodies),
            following.encode(),
            head.sequence,
            head.oldest,
            head.epoch.encode(),
        )
        return Answer(body=body)

    # -- permissions ---------------------------------------------------------------------------------------------------

    async def _grant(self, identity: Identity, request: Request) -> Answer:
        body = await request.json_body(MAX_MESSAGE_BYTES)
        request.refuse_query()
        wanted = strict_json.decode(body, _grant_body)
        granted = await self._service.chat_permission.grant(identity, wanted.user_id, wanted.chat_id, wanted.role)
        return answer_json(_permission(granted))

    async def _revoke(self, identity: Identity, request: Request) -> Answer:
        query = _revoke_query.decode(request)
        fence = await self._service.chat_permission.revoke(identity, query.user_id, query.chat_id)
        return answer_json(records.Revocation(user_id=query.user_id, chat_id=query.chat_id, fence_sequence=fence))

    async def _list_permissions(self, identity: Identity, request: Request) -> Answer:
        query = _permissions_query.decode(request)
        if query.user_id is None and query.chat_id is None:
            raise invalid("userId", "Say whose, with userId, or where, with chatId; or both.")
        question: Question = ("permissions", query.user_id, query.chat_id)
        after = None if query.start_key is None else self._cursors.open(query.start_key, question)
        page = await self._service.chat_permission.list_permissions(
            identity, query.user_id, query.chat_id, after=after, limit=query.limit
        )
        return answer_json(
            records.PermissionsPage(
                permissions=[_permission(row) for row in page.permissions],
                next_start_key=None if page.next is None else self._cursors.seal(page.next, question),
            )
        )

    # -- metrics, tickets ----------------------------------------------------------------------------------------------

    async def _report_metrics(self, identity: Identity, request: Request) -> Answer:
        body = await request.json_body(MAX_MESSAGE_BYTES)
        request.refuse_query()
        await self._service.metric_collector.collect(identity, strict_json.decode(body, _metrics_body).metrics)
        return Answer(status=202)

    async def _offer_ticket(self, identity: Identity, request: Request) -> Answer:
        body = await request.json_body(MAX_MESSAGE_BYTES)
        request.refuse_query()
        chat_ids = strict_json.decode(body, _ticket_body).chat_ids if body else msgspec.UNSET
        chosen = None if chat_ids is msgspec.UNSET else frozenset(chat_ids)
        ticket = await self._service.chat_permission.offer_ticket(identity, chosen)
        return answer_json(records.Ticket(ticket=ticket, expires_in=TICKET_SECONDS))

    # -- connections ---------------------------------------------------------------------------------------------------

    async def _send_to_connection(self, identity: Identity, request: Request) -> Answer:
        body = await request.body(MAX_MESSAGE_BYTES)
        request.refuse_query()
        if not body:
            raise Refusal("bad_request", "There is nothing to send: the body is what the connection gets.")
        try:
            body.decode()
        except UnicodeDecodeError:
            raise Refusal("unsupported_data", "Connections take text: the body must be UTF-8.") from None
        _require(identity, CONNECTIONS_SCOPE)
        if not await self._service.engine.clients.send(request.rest, [body]):
            raise _gone()
        return Answer()

    async def _show_connection(self, identity: Identity, request: Request) -> Answer:
        request.refuse_query()
        _require(identity, CONNECTIONS_SCOPE)
        connection = await self._service.engine.connections.get(request.rest)
        if connection is None:
            raise _gone()
        state = records.ConnectionState(
            connected_at=rfc3339(connection.connected_at).decode(),
            # Its clock only goes on from sweep to sweep, and may be a little behind.
            last_active_at=rfc3339(max(connection.connected_at, connection.last_active_at)).decode(),
            identity=records.ConnectionIdentity(source_ip=connection.source_ip, user_agent=connection.user_agent),
        )
        return answer_json(state)

    async def _close_connection(self, identity: Identity, request: Request) -> Answer:
        request.refuse_query()
        _require(identity, CONNECTIONS_SCOPE)
        if not await self._service.engine.clients.disconnect(request.rest, CloseCode.NORMAL):
            raise _gone()
        return Answer(status=204)

    # -- the rest ------------------------------------------------------------------------------------------------------

    async def _describe(self, request: Request) -> Answer:
        request.refuse_query()
        return self._document

    @cached_property
    def _document(self) -> Answer:
        """Made when it is first asked for: a function on AWS would wait for it at each start."""
        return answer_json(openapi.document(self._base_path, self._described))

    async def _connect(self, request: Request) -> Answer:
        """Here comes what head_reader.py found to be no ordinary upgrade. It is refused like one; 426 comes last."""
        upgrade = UpgradeRequest(path=request.path, query=request.query_pairs(), headers=request.headers(), key="")
        wanted, _ = read_connect_request(upgrade)
        fault = upgrade_fault(upgrade, request.version)
        if wanted.fault is None and fault.code == "bad_request":
            wanted = msgspec.structs.replace(wanted, fault=fault)
        await self._service.websocket_authorizer.authorize(wanted)
        raise fault


def _idempotency_key(request: Request) -> str | None:
    values = request.header_values(b"idempotency-key")
    if len(values) > 1:
        raise invalid("Idempotency-Key", "This header may be given once.")
    return values[0] if values else None


def _range(query: records.MessagesQuery) -> Range:
    """What of the chat; by number if a number is given. Raises `invalid_argument`."""
    by_number = query.from_sequence is not None or query.to_sequence is not None
    if by_number:
        if query.order == "desc":
            raise invalid("order", "A range of numbers is read upwards.")
        if query.from_timestamp is not None or query.to_timestamp is not None:
            name = "fromTimestamp" if query.from_timestamp is not None else "toTimestamp"
            raise invalid(name, "Ask for a range of numbers or of time, not for both.")
        first, last = query.from_sequence, query.to_sequence
    else:
        first = _milliseconds("fromTimestamp", query.from_timestamp)
        last = _milliseconds("toTimestamp", query.to_timestamp)
    if first is not None and last is not None and first > last:
        raise invalid("fromSequence" if by_number else "fromTimestamp", "The range ends before it begins.")
    return Range(
        chat_id=query.chat_id,
        limit=query.limit,
        ascending=by_number or query.order == "asc",
        by_number=by_number,
        first=first,
        last=last,
    )


def _milliseconds(name: str, time: str | None) -> int | None:
    if time is None:
        return None
    try:
        return parse_rfc3339(time)
    except (ValueError, OverflowError):
        raise invalid(name, "This is no time as RFC 3339 writes it.") from None


def _permission(row: Permission) -> records.GrantedPermission:
    return records.GrantedPermission(
        user_id=row.user_id,
        chat_id=row.chat_id,
        role=row.role,
        granted_by=row.granted_by,
        granted_at=rfc3339(row.granted_at).decode(),
    )


def _require(identity: Identity, scope: str) -> None:
    if scope not in identity.scopes:
        raise Refusal("forbidden", f"The token lacks the scope {scope}.")


def _gone() -> Refusal:
    return Refusal("gone", "There is no such connection, or there is no more.")


def _error_type(refusal: Refusal) -> Header:
    """The exception that an AWS client makes of the answer."""
    other = "InternalServerErrorException" if refusal.status >= 500 else "BadRequestException"
    return b"x-amzn-errortype", ERROR_TYPES.get(refusal.status, other).encode()
