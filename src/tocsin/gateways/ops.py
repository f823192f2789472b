"""The ops listener: is the process alive, is it ready, and what has it counted. Never on the public port.

    /healthz -> 200 while the process runs       /readyz -> 200, or 503 and why not       /metrics -> Prometheus

Rule: it answers whatever the store does, because that is when somebody looks.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from tocsin.engine import Engine
from tocsin.errors import Refusal
from tocsin.gateways.asgi import Answer, Request, Resource, Shell, answer_json
from tocsin.topology import MESSAGE_STORAGE_QUEUE

#: How long the store may take to say what its queues hold; who scrapes wants the rest even if it does not.
DEPTHS_SECONDS: Final = 1.0
TEXT_FORMAT: Final = b"text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' own, as `expose` writes it."""

_log: Final = structlog.get_logger("tocsin.gateways")


class OpsApi:
    def __init__(
        self,
        engine: Engine,
        *,
        ready: Callable[[], Sequence[str]],
        expose: Callable[[], bytes],
        new_id: Callable[[], str],
    ) -> None:
        """`ready`: the reasons not to be; `expose`: the metrics as text."""
        self._engine: Final = engine
        self._ready: Final = ready
        self._expose: Final = expose
        self._shell: Final = Shell(
            {
                "/healthz": Resource(methods={"GET": self._tell_health}),
                "/readyz": Resource(methods={"GET": self._tell_readiness}),
                "/metrics": Resource(methods={"GET": self._tell_metrics}),
            },
            new_id=new_id,
            refused=lambda _code: None,  # an operator's mistake says nothing about the service
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._shell(scope, receive, send)

    async def _tell_health(self, _request: Request) -> Answer:
        return answer_json({"status": "alive"})

    async def _tell_readiness(self, _request: Request) -> Answer:
        reasons = list(self._ready())
        return answer_json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _tell_metrics(self, _request: Request) -> Answer:
        try:
            async with asyncio.timeout(DEPTHS_SECONDS):
                await self._measure_queues()
        except (Refusal, TimeoutError) as error:
            _log.warning("the queues' depths are not known; the last ones are shown", reason=type(error).__name__)
        return Answer(body=self._expose(), media_type=TEXT_FORMAT)

    async def _measure_queues(self) -> None:
        metrics = self._engine.metrics
        for depth in await self._engine.bus.depths():
            metrics.gauge("queue_depth", depth.waiting, label=depth.queue)
            metrics.gauge("queue_age", depth.oldest_age, label=depth.queue)
            metrics.gauge("dead_letters_held", depth.dead_letters, label=depth.queue)
            if depth.queue == MESSAGE_STORAGE_QUEUE.name:
                metrics.gauge("storage_lag", depth.waiting)
