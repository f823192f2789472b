"""The nine functions on either engine: events in, results out, and clients that hear what is posted to them."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import msgspec

from tests.conformance.aws import AwsHarness
from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import Client, Harness, identity
from tests.gateways.lambda_events import CLAIMS, CONNECTION, Aws, Json
from tocsin.engines.aws.settings import FUNCTIONS, Function
from tocsin.gateways.aws_events import Batch
from tocsin.gateways.aws_routes import ENTRY_POINTS, WEBSOCKET_ROUTES
from tocsin.gateways.aws_sockets import FRAME_SECONDS
from tocsin.gateways.cursors import Cursors
from tocsin.identity import TokenRules
from tocsin.profiles import aws
from tocsin.profiles.aws import Parts

RULES: Final = TokenRules(
    issuer="https://issuer.example.com", audiences=frozenset({"web", "back-end"}), scope_prefix="tocsin/"
)
ORIGIN: Final = "https://app.example.com"


class Functions(Harness):
    """`dialect` makes the events."""

    dialect: Aws = Aws()
    frame_seconds = FRAME_SECONDS
    parts: dict[Function, Parts]

    def _wire(self) -> None:
        self.parts = {
            function: Parts(
                function,
                self.engine,
                self.service.tokens,
                RULES,
                consume=self._consume,
                each_minute=self._this_minute,
                limit_of=self._limit_of,
                cursors=Cursors(b"secret"),
                allowed_origins=frozenset({ORIGIN}),
                frame_seconds=self.frame_seconds,
            )
            for function in FUNCTIONS
        }

    # What Lambda does

    async def call(self, function: Function, event: Json) -> Json:
        """What Lambda hands back: JSON."""
        entry = getattr(aws, ENTRY_POINTS[function])
        result = await self.clock.run(entry.on(self.parts[function], event))
        decoded: Json = msgspec.json.decode(msgspec.json.encode(result))
        return decoded

    async def rest(
        self,
        function: Function,
        method: str,
        resource: str,
        body: object = None,
        *,
        query: str = "",
        user: str = "back-end",
        scopes: Sequence[str] = ("publish:any", "permissions:write", "messages:read"),
        headers: Sequence[tuple[str, str]] = (),
        claims: Json | None = CLAIMS,
    ) -> tuple[int, Json, Json]:
        """Status, headers and body of the answer; `claims` None: nobody is known."""
        sent = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        if claims is not None:
            claims = claims | {"sub": user, "scope": " ".join(f"tocsin/{scope}" for scope in scopes)}
        event = self.dialect.rest(method, resource, query=query, headers=headers, body=sent, claims=claims)
        result = await self.call(function, event)
        assert result["isBase64Encoded"] is False
        return result["statusCode"], result["headers"], msgspec.json.decode(result["body"]) if result["body"] else {}

    def token(self, user: str, *scopes: str, seconds: int = 3600) -> str:
        return self.files.mint(user, scopes, seconds, self.clock.now())

    # What API Gateway does

    async def upgrade(
        self, query: str, headers: Sequence[tuple[str, str]] = (), *, connection: str = CONNECTION
    ) -> Json:
        """Asks the authorizer, then `$connect`; its result. A denial is a 403."""
        asked = self.dialect.authorizer(query, headers)
        asked["requestContext"]["connectionId"] = connection
        verdict = await self.call("websocket-authorizer", asked)
        if verdict["policyDocument"]["Statement"][0]["Effect"] == "Deny":
            return {"statusCode": 403}
        event = self.dialect.connect(verdict["context"], query, headers)
        event["requestContext"]["connectionId"] = connection
        return await self.call("connection-handler", event)

    async def open(self, user: str, *chats: str, connection: str = CONNECTION, more: str = "") -> Client:
        """A client that has been let in."""
        query = "&".join([f"token={self.token(user)}", *[f"chatId={chat}" for chat in chats]]) + more
        result = await self.upgrade(query, connection=connection)
        assert result == {"statusCode": 200}
        client = Client(connection, identity(user), self)
        self.attach(client)
        return client

    async def say(self, action: Json | str, *, connection: str = CONNECTION) -> Any:
        """Sends a frame; what the route answers."""
        body = action if isinstance(action, str) else msgspec.json.encode(action).decode()
        name = action.get("action") if isinstance(action, dict) else None
        function = cast(Function, WEBSOCKET_ROUTES.get(str(name), WEBSOCKET_ROUTES["$default"]))
        result = await self.call(function, self.dialect.message(body, route=str(name), connection=connection))
        assert result["statusCode"] == 200
        return msgspec.json.decode(result["body"]) if "body" in result else None

    def spent(self, ticket: str, chats: frozenset[str]) -> None:
        """What the ticket's row says, where there is none."""

    # What an engine on AWS has beyond the protocols

    @abstractmethod
    async def _consume(self, batch: Batch) -> Sequence[str]: ...

    @abstractmethod
    async def _this_minute(self, expire: Callable[[], Awaitable[None]]) -> None: ...

    @abstractmethod
    async def _limit_of(self, ticket: str) -> frozenset[str] | None: ...


class EmbeddedFunctions(Functions, EmbeddedHarness):
    """What it lacks of AWS is written down: batches that were handed over, minutes, and the rows of spent tickets."""

    def _begin(self) -> None:
        self._tickets: dict[str, frozenset[str]] = {}
        self.batches: list[Batch] = []
        self.minutes = 0
        self._wire()
        super()._begin()

    async def _consume(self, batch: Batch) -> Sequence[str]:
        self.batches.append(batch)
        return ["message-1"]

    async def _this_minute(self, expire: Callable[[], Awaitable[None]]) -> None:
        await expire()
        self.minutes += 1

    async def _limit_of(self, ticket: str) -> frozenset[str] | None:
        return self._tickets.get(ticket)

    def spent(self, ticket: str, chats: frozenset[str]) -> None:
        self._tickets[ticket] = chats


class AwsFunctions(Functions, AwsHarness):
    """All of it real, but for the clock and what stands between SQS and Lambda."""

    def _begin(self) -> None:
        self._wire()
        super()._begin()

    async def _consume(self, batch: Batch) -> Sequence[str]:
        return await aws.consumer(self.aws.bus, self.settings)(batch)

    async def _this_minute(self, expire: Callable[[], Awaitable[None]]) -> None:
        await self.aws.each_minute(expire)

    async def _limit_of(self, ticket: str) -> frozenset[str] | None:
        return await self.aws.tickets.limit_of(ticket)
