"""Processor: queue -> number -> audience -> delivery. (Seed: processor/)

    WebSocketFifoQueue, WebSocketStandardQueue -> process -> Numbers -> Connections.audience -> Clients.deliver
                                                                                gone -> Connections.close

Rule: the number first, the audience second: who subscribes in between is live before the number is out, or reads a
head that has it.
"""

from collections.abc import Sequence

from tocsin.clients import Clients, Connections
from tocsin.clock import Clock
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.metrics import Metrics
from tocsin.tables import Numbers


class Processor:
    def __init__(
        self,
        *,
        numbers: Numbers,
        connections: Connections,
        clients: Clients,
        metrics: Metrics,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._numbers = numbers
        self._connections = connections
        self._clients = clients
        self._metrics = metrics
        self._clock = clock
        self._failpoints = failpoints

    async def process(self, messages: Sequence[Message]) -> None:
        began = self._clock.monotonic()
        numbered = await self._numbers.number(messages)
        await self._failpoints.reach("processor.before_audience", numbered)
        audience = await self._connections.audience({message.chat_id for message in numbered})
        if audience:
            gone = await self._clients.deliver(audience, numbered)
            if gone:
                await self._connections.close(gone)
        await self._failpoints.reach("processor.done", numbered)
        self._metrics.observe("commit_to_delivery", self._clock.monotonic() - began)
