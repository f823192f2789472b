"""The nine components, wired to an engine from top to bottom; queue -> consumer.

A profile builds an Engine, a TokenCheck and a gateway; this is what stands between them.
"""

import asyncio
from typing import Final

from tocsin.components.a2p_publisher import A2pPublisher
from tocsin.components.chat_permission import ChatPermission
from tocsin.components.connection_handler import ConnectionHandler, ReplayLimits
from tocsin.components.message_retrieval import MessageRetrieval
from tocsin.components.message_storage import MessageStorage
from tocsin.components.metric_collector import MetricCollector
from tocsin.components.p2p_publisher import P2pPublisher
from tocsin.components.processor import Processor
from tocsin.components.websocket_authorizer import WebsocketAuthorizer
from tocsin.engine import Engine
from tocsin.identity import TokenCheck
from tocsin.logs import Log
from tocsin.message import MAX_MESSAGE_BYTES
from tocsin.publishing import Publishing
from tocsin.topology import MESSAGE_STORAGE_QUEUE, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE

log = Log(__name__)

EXPIRE_SECONDS: Final = 10.0
EXPIRE_SLICE: Final = 2_000
TOKEN_SECONDS: Final = 1.0


class Service:
    def __init__(
        self,
        engine: Engine,
        tokens: TokenCheck,
        *,
        chats_per_connection: int = 300,
        largest: int = MAX_MESSAGE_BYTES,
        replay: ReplayLimits | None = None,
    ) -> None:
        """`largest`: so many bytes a message may have as it is delivered."""
        self.engine: Final = engine
        self.tokens: Final = tokens
        publishing = Publishing(
            bus=engine.bus,
            permissions=engine.permissions,
            rates=engine.rates,
            metrics=engine.metrics,
            clock=engine.clock,
            ids=engine.ids,
            failpoints=engine.failpoints,
            largest=largest,
        )
        self.websocket_authorizer: Final = WebsocketAuthorizer(
            tokens=tokens,
            tickets=engine.tickets,
            permissions=engine.permissions,
            clock=engine.clock,
            chats_per_connection=chats_per_connection,
        )
        self.connection_handler: Final = ConnectionHandler(
            connections=engine.connections,
            clients=engine.clients,
            numbers=engine.numbers,
            messages=engine.messages,
            tokens=tokens,
            clock=engine.clock,
            failpoints=engine.failpoints,
            replay=replay or ReplayLimits(),
        )
        self.p2p_publisher: Final = P2pPublisher(publishing)
        self.a2p_publisher: Final = A2pPublisher(publishing)
        self.processor: Final = Processor(
            numbers=engine.numbers,
            connections=engine.connections,
            clients=engine.clients,
            metrics=engine.metrics,
            clock=engine.clock,
            failpoints=engine.failpoints,
        )
        self.message_storage: Final = MessageStorage(engine.messages)
        self.message_retrieval: Final = MessageRetrieval(
            messages=engine.messages, numbers=engine.numbers, permissions=engine.permissions
        )
        self.chat_permission: Final = ChatPermission(
            permissions=engine.permissions,
            connections=engine.connections,
            clients=engine.clients,
            numbers=engine.numbers,
            tickets=engine.tickets,
            clock=engine.clock,
            failpoints=engine.failpoints,
        )
        self.metric_collector: Final = MetricCollector(engine.metrics, engine.clock)
        engine.bus.consume(WEBSOCKET_FIFO_QUEUE, self.processor.process)
        engine.bus.consume(WEBSOCKET_STANDARD_QUEUE, self.processor.process)
        engine.bus.consume(MESSAGE_STORAGE_QUEUE, self.message_storage.store)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """The two clocks: ended tokens, expired messages."""
        self._tasks = [
            asyncio.create_task(self._end_tokens(), name="end-tokens"),
            asyncio.create_task(self._expire_messages(), name="expire-messages"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end_tokens(self) -> None:
        while True:
            await self.engine.clock.sleep(TOKEN_SECONDS)
            await self.connection_handler.expire()

    async def _expire_messages(self) -> None:
        while True:
            try:
                while await self.engine.messages.expire(self.engine.clock.now(), EXPIRE_SLICE) >= EXPIRE_SLICE:
                    pass
            except Exception as error:  # noqa: BLE001 - a pass that fails is followed by another
                log.error("a pass over expired messages failed", error=repr(error))
            await self.engine.clock.sleep(EXPIRE_SECONDS)
