"""The REST door on AWS: one call of API Gateway -> the same routes and handlers as anywhere -> one reply.

    aws_events.read_call -> RestDoor -> HttpApi -> Reply -> aws_events.render_reply

Rules:
- The authorizer of API Gateway has checked the token; what it says is held against our own rules once more. Only an
  access token counts here, whatever the authorizer took.
"""

from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

from tocsin.errors import Refusal
from tocsin.gateways.asgi import Request
from tocsin.gateways.aws_events import Call, Reply
from tocsin.gateways.aws_routes import REST_ROUTES
from tocsin.gateways.cursors import Cursors
from tocsin.gateways.http import HttpApi
from tocsin.gateways.routes import ROUTES
from tocsin.identity import Identity, TokenRules, identify
from tocsin.service import Service

#: A call and its answer pass through Lambda in 6 MB, a call in base64.
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
DESCRIBED: Final = tuple(route for route in ROUTES if (route.method, route.path) in REST_ROUTES)

_call: Final[ContextVar[Call]] = ContextVar("call")


class RestDoor:
    def __init__(
        self,
        service: Service,
        function: str,
        *,
        base_path: str,
        cursors: Cursors,
        rules: TokenRules,
        allowed_origins: frozenset[str],
    ) -> None:
        """`function` by the seed's name: what its routes are stands in aws_routes.py."""
        self._rules: Final = rules
        self._clock: Final = service.engine.clock
        self._base_path: Final = base_path
        self._api: Final = HttpApi(
            service,
            base_path=base_path,
            cursors=cursors,
            allowed_origins=allowed_origins,
            new_id=lambda: _call.get().request_id,
            routes=[route for route in DESCRIBED if REST_ROUTES[route.method, route.path] == function],
            described=DESCRIBED,
            identify=self._identify,
            max_batch=MAX_BATCH_BYTES,
        )

    async def answer(self, call: Call) -> Reply:
        """Asks as a server of ASGI does."""
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": call.body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": call.method,
            "path": self._base_path + call.path,
            "query_string": call.query,
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in call.headers],
        }
        token = _call.set(call)
        try:
            await self._api(scope, receive, send)
        finally:
            _call.reset(token)
        start, body = sent
        headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        headers.pop("content-length", None)  # API Gateway's
        return Reply(status=start["status"], headers=headers, body=body["body"])

    async def _identify(self, _request: Request) -> Identity:
        claims: Mapping[str, object] | None = _call.get().claims
        if claims is None:
            raise Refusal("unauthorized", "A token is needed: Authorization: Bearer <token>.")
        if claims.get("token_use") != "access":
            raise Refusal("invalid_token", "Only an access token is taken here.")
        return identify(claims, self._rules, self._clock.now())
