"""The AWS profile: the nine functions. Each entry point translates its event, calls a component, translates the answer.

    Lambda -> EntryPoint -> Process (once: settings -> engine -> service -> doors) -> the function below -> Lambda

Rules:
- all that a process needs is made when it starts, if Lambda says which function it is: what is missing in the
  environment fails there, with its name, and not at some message. One event loop for its whole life;
- a function stops asking AWS before Lambda stops the function: then there is still an answer;
- which function serves which route stands in gateways/aws_routes.py, what it is told in engines/aws/settings.py.
"""

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, NoReturn, Protocol, TypeVar, cast

import msgspec

from tocsin import logs
from tocsin.clock import SystemClock
from tocsin.components.connection_handler import ReplayLimits
from tocsin.engine import Engine
from tocsin.engines.aws.calls import until
from tocsin.engines.aws.cursor_secrets import read_cursor_secrets
from tocsin.engines.aws.engine import AwsEngine
from tocsin.engines.aws.settings import FUNCTIONS, AwsSettings, Function
from tocsin.engines.aws.sns_bus import SnsBus
from tocsin.engines.aws.sqs_queue import Record
from tocsin.engines.oidc_keys import OidcKeys
from tocsin.failpoints import Failpoints
from tocsin.gateways import aws_events
from tocsin.gateways.aws_events import Batch, Event, Frame, Left, Result
from tocsin.gateways.aws_rest import RestDoor
from tocsin.gateways.aws_routes import ENTRY_POINTS
from tocsin.gateways.aws_sockets import FRAME_SECONDS, RouteResponses, SocketDoor
from tocsin.gateways.cursors import Cursors
from tocsin.identity import Keys, KeySet, KeySource, KeysUnusable, TokenCheck, TokenRules
from tocsin.logs import Log
from tocsin.message import MAX_MESSAGE_BYTES
from tocsin.service import Service
from tocsin.topology import MESSAGE_STORAGE_QUEUE, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE

P = TypeVar("P")

log: Final = Log(__name__)

#: API Gateway takes 128 KiB for a connection, and less than that.
LARGEST: Final = MAX_MESSAGE_BYTES - 1
#: What a connection-handler can post in its 25 s; and how many rows one transaction subscribes.
REPLAY: Final = ReplayLimits(messages=1_000, size=4 * 1024 * 1024, shared=True, together=49)
#: Of the function's timeout, in seconds: for the answer.
MARGIN: Final = 0.5
#: Where a function has to end sooner than its timeout says.
OWN_SECONDS: Final[dict[Function, float]] = {"connection-handler": FRAME_SECONDS, "processor": 45.0}
BASE_PATH: Final = "/dvl"
#: Clients that are made while a process starts: those that the function's every event needs.
CLIENTS: Final[dict[Function, tuple[str, ...]]] = {
    "websocket-authorizer": ("dynamodb",),
    "connection-handler": ("dynamodb", "api"),
    "p2pWebSocketPublisher": ("dynamodb", "sns"),
    "a2pHttpPublisher": ("dynamodb", "sns"),
    "processor": ("dynamodb", "api"),
    "message-storage": ("dynamodb",),
    "message-retrieval": ("dynamodb",),
    "chat-permission": ("dynamodb",),
    "metric-collector": (),
}


class Context(Protocol):
    """Lambda's, as far as it is looked at."""

    def get_remaining_time_in_millis(self) -> int: ...


class Consuming(Protocol):
    """What a function behind queues needs."""

    @property
    def consume(self) -> Callable[[Batch], Awaitable[Sequence[str]]]: ...


class Parts:
    """What the nine need, wired to an engine. The callables are what an engine on AWS has beyond the protocols."""

    def __init__(
        self,
        function: Function,
        engine: Engine,
        tokens: TokenCheck,
        rules: TokenRules,
        *,
        consume: Callable[[Batch], Awaitable[Sequence[str]]],
        each_minute: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
        limit_of: Callable[[str], Awaitable[frozenset[str] | None]],
        cursors: Cursors,
        allowed_origins: frozenset[str] = frozenset(),
        chats_per_connection: int = 300,
        frame_seconds: float = FRAME_SECONDS,
    ) -> None:
        responses = RouteResponses(engine.clients)
        self.service: Final = Service(
            msgspec.structs.replace(engine, clients=responses),
            tokens,
            chats_per_connection=chats_per_connection,
            largest=LARGEST,
            replay=REPLAY,
        )
        self.consume: Final = consume
        self.each_minute: Final = each_minute
        self.sockets: Final = SocketDoor(
            self.service, responses, limit_of=limit_of, allowed_origins=allowed_origins, seconds=frame_seconds
        )
        self.rest: Final = RestDoor(
            self.service, function, base_path=BASE_PATH, cursors=cursors, rules=rules, allowed_origins=allowed_origins
        )


Work = Callable[[Parts, Event], Awaitable[Result]]


class Process:
    """One of Lambda's, for its whole life. What needs an answer of AWS is asked for with the first event."""

    def __init__(self, function: Function) -> None:
        """EnvironmentFault names what is missing."""
        logs.configure("lambda")
        self._function: Final = function
        self._settings: Final = AwsSettings.read(function, os.environ)
        self._clock: Final = SystemClock()
        failpoints = Failpoints(os.environ.get("TOCSIN_FAILPOINTS", ""))
        self._aws: Final = AwsEngine(self._settings, clock=self._clock, failpoints=failpoints)
        gc.disable()  # boto3 loads its models for good: to look among them for what is not takes a quarter of the start
        for name in CLIENTS[function]:
            getattr(self._aws, name).client  # noqa: B018 - it is made now
        gc.freeze()
        gc.enable()
        self._runner: Final = asyncio.Runner()
        self._parts: Parts | None = None

    def run(self, work: Work, event: Event, context: Context) -> Result:
        try:
            return self._runner.run(self._run(work, event, context.get_remaining_time_in_millis() / 1000))
        finally:
            self._aws.metrics.flush()

    def close(self) -> None:
        """For tests: Lambda's end with their container."""
        self._runner.close()
        self._aws.close()
        gc.unfreeze()

    async def _run(self, work: Work, event: Event, remaining: float) -> Result:
        seconds = min(OWN_SECONDS.get(self._function, remaining), remaining - MARGIN)
        with until(self._clock.monotonic() + seconds):
            if self._parts is None:
                self._parts = await self._wire()
            return await work(self._parts, event)

    async def _wire(self) -> Parts:
        settings, aws = self._settings, self._aws
        rules = TokenRules(
            issuer=settings.issuer, audiences=frozenset(settings.audience), scope_prefix=settings.scope_prefix
        )
        secrets: tuple[bytes, ...] = (b"",)
        if settings.cursor_secret_arn:
            secrets = await read_cursor_secrets(aws.secrets, settings.cursor_secret_arn)
        return Parts(
            self._function,
            aws.protocols,
            TokenCheck(self._keys(), rules),
            rules,
            consume=consumer(aws.bus, settings),
            each_minute=aws.each_minute,
            limit_of=aws.tickets.limit_of,
            cursors=Cursors(*secrets),
            allowed_origins=frozenset(settings.allowed_origins),
            chats_per_connection=settings.chats_per_connection,
        )

    def _keys(self) -> Keys:
        """None yet, and too old: the first token has them fetched, so that who checks none does not wait for them."""
        settings = self._settings
        source: KeySource = _NoKeys()
        if settings.jwks_url:
            source = OidcKeys(issuer=settings.issuer, jwks_url=settings.jwks_url)
        return Keys(source, KeySet(keys={}, fresh_for_s=0), lambda sentence: log.warning("keys", reason=sentence), 0)


def consumer(bus: SnsBus, settings: AwsSettings) -> Callable[[Batch], Awaitable[Sequence[str]]]:
    """Takes a batch of a queue that the settings name; the transport ids of what is not done."""
    queues = {
        url.rpartition("/")[2]: queue
        for url, queue in (
            (settings.fifo_queue_url, WEBSOCKET_FIFO_QUEUE),
            (settings.standard_queue_url, WEBSOCKET_STANDARD_QUEUE),
            (settings.storage_queue_url, MESSAGE_STORAGE_QUEUE),
        )
    }

    async def consume(batch: Batch) -> Sequence[str]:
        records = msgspec.convert(batch.records, list[Record], from_attributes=True)
        return await bus.handle(queues[batch.queue], records)

    return consume


class _NoKeys:
    """For functions that API Gateway's authorizer stands before."""

    async def load(self) -> NoReturn:
        raise KeysUnusable("This function checks no signatures.")


class EntryPoint(Generic[P]):
    """What Lambda calls: one of the nine, in its process. `P`: what of Parts it needs."""

    def __init__(self, work: Callable[[P, Event], Awaitable[Result]]) -> None:
        self.work: Final = work
        self._name: Final = work.__name__
        self._process: Process | None = None
        if os.environ.get("_HANDLER", "").rpartition(".")[2] == self._name:
            self._start()

    def _start(self) -> Process:
        if self._process is None:
            self._process = Process(next(function for function in FUNCTIONS if ENTRY_POINTS[function] == self._name))
        return self._process

    def __call__(self, event: Event, context: Context) -> Result:
        return self._start().run(cast(Work, self.work), event, context)

    async def on(self, parts: P, event: Event) -> Result:
        """On parts of another engine."""
        return await self.work(parts, event)


# -- the nine ----------------------------------------------------------------------------------------------------------


@EntryPoint
async def websocket_authorizer(parts: Parts, event: Event) -> Result:
    upgrade = aws_events.read_upgrade(event)
    return aws_events.render_verdict(upgrade, await parts.sockets.authorize(upgrade))


@EntryPoint
async def connection_handler(parts: Parts, event: Event) -> Result:
    if aws_events.is_minute(event):
        await parts.each_minute(parts.service.connection_handler.expire)
        return {}
    match aws_events.read_socket_event(event):
        case Frame() as frame:
            return aws_events.render_frame(await parts.sockets.answer(frame))
        case Left() as left:
            await parts.sockets.disconnect(left)
            return aws_events.render_frame(None)
        case upgrade:
            return aws_events.render_upgrade(upgrade, await parts.sockets.connect(upgrade))


@EntryPoint
async def p2p_web_socket_publisher(parts: Parts, event: Event) -> Result:
    return aws_events.render_frame(await parts.sockets.answer(aws_events.read_frame(event)))


@EntryPoint
async def a2p_http_publisher(parts: Parts, event: Event) -> Result:
    return aws_events.render_reply(await parts.rest.answer(aws_events.read_call(event)))


@EntryPoint
async def processor(parts: Consuming, event: Event) -> Result:
    return aws_events.render_failures(await parts.consume(aws_events.read_batch(event)))


@EntryPoint
async def message_storage(parts: Consuming, event: Event) -> Result:
    return aws_events.render_failures(await parts.consume(aws_events.read_batch(event)))


@EntryPoint
async def message_retrieval(parts: Parts, event: Event) -> Result:
    return aws_events.render_reply(await parts.rest.answer(aws_events.read_call(event)))


@EntryPoint
async def chat_permission(parts: Parts, event: Event) -> Result:
    return aws_events.render_reply(await parts.rest.answer(aws_events.read_call(event)))


@EntryPoint
async def metric_collector(parts: Parts, event: Event) -> Result:
    return aws_events.render_reply(await parts.rest.answer(aws_events.read_call(event)))
