"""The AWS engine's stand: DynamoDB, SNS and SQS of the emulator, a pump and a management API of our own.

A client that reads nothing is one for which API Gateway has no time (429), until it reads on.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from tests.conformance.event_source import EventSources
from tests.conformance.harness import Client, Harness, Options
from tests.conformance.management_api import ManagementApi
from tests.ministack import Stage
from tocsin.engine import Engine
from tocsin.engines.aws.apigateway_posts import POST_SECONDS
from tocsin.engines.aws.engine import AwsEngine
from tocsin.engines.aws.settings import AwsSettings
from tocsin.engines.file_keys import FileKeys
from tocsin.failpoints import Failpoints

#: In seconds.
MINUTE: Final = 60.0


class AwsHarness(Harness):
    """A frame is its payload. A crash loses what was in flight, and SQS hands it over again at once."""

    aws: AwsEngine
    settings: AwsSettings
    #: After so many API Gateway has not answered: real ones, of which a test has few.
    post_seconds = POST_SECONDS
    many = 1
    asked_each = 60_000

    def __init__(self, stage: Stage, files: FileKeys) -> None:
        super().__init__(files)
        self.stage = stage
        self.api = ManagementApi()

    async def _open(self, options: Options, failpoints: Failpoints) -> Engine:
        endpoint = await self.api.start()
        self.settings = self.stage.settings(
            retention=options.retention, chats_per_connection=options.chats_per_connection, ws_api_endpoint=endpoint
        )
        self.aws = AwsEngine(self.settings, clock=self.clock, failpoints=failpoints, post_seconds=self.post_seconds)
        return self.aws.protocols

    def _begin(self) -> None:
        self._sources = EventSources(self.aws, self.settings, self.stage.services, self.clock)

    async def _close(self) -> None:
        await self._sources.stop()
        self.aws.close()
        await self.api.stop()

    async def _crash(self) -> None:
        await self._close()

    async def settle(self) -> None:
        self._sources.wake()  # other functions than this one may have published
        await super().settle()

    async def processed(self) -> None:
        """Time passes: who is busy is posted to again."""
        await self.clock.run(self.engine.bus.drain())

    def attach(self, client: Client) -> None:
        self.api.attach(client)

    def stall(self, connection_id: str) -> None:
        self.api.busy.add(connection_id)

    def resume(self, connection_id: str) -> None:
        self.api.busy.discard(connection_id)

    async def lose(self, client: Client) -> None:
        self.api.lose(client.connection_id)
        await self.engine.connections.close([client.connection_id])

    async def told(self) -> None:
        """Within two minutes: the first job may just be finding that the client does not read."""
        for _ in range(2):
            await self.clock.run(self._job.acquire())  # so that none is cut short
            self.clock.advance(MINUTE)
            self._job.release()
            await self.clock.run(self.minute())

    # The minute's job, in place of the service's clocks

    def _start_clocks(self) -> None:
        self._job = asyncio.Lock()
        self._minutes = asyncio.ensure_future(self._each_minute())

    async def _stop_clocks(self) -> None:
        self._minutes.cancel()
        await asyncio.gather(self._minutes, return_exceptions=True)
        if not self._minutes.cancelled():
            self._minutes.result()

    async def _each_minute(self) -> None:
        while True:
            await self.clock.sleep(MINUTE - self.clock.monotonic() % MINUTE)
            await self.minute()

    async def minute(self) -> None:
        async with self._job:
            await self.aws.each_minute(self.service.connection_handler.expire)

    def split(self, frames: bytes) -> Sequence[bytes]:
        return [frames]
