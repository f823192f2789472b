"""The AWS engine's stand: DynamoDB, SNS and SQS of the emulator, a pump and a management API of our own."""

from collections.abc import Sequence

from tests.conformance.event_source import EventSources
from tests.conformance.harness import Client, Harness, Options
from tests.conformance.management_api import ManagementApi
from tests.ministack import Stage
from tocsin.engine import Engine
from tocsin.engines.aws.engine import AwsEngine
from tocsin.engines.file_keys import FileKeys
from tocsin.failpoints import Failpoints


class AwsHarness(Harness):
    """A frame is its payload. A crash loses what was in flight, and SQS hands it over again at once."""

    aws: AwsEngine

    def __init__(self, stage: Stage, files: FileKeys) -> None:
        super().__init__(files)
        self.stage = stage
        self.api = ManagementApi()

    async def _open(self, options: Options, failpoints: Failpoints) -> Engine:
        endpoint = await self.api.start()
        self._settings = self.stage.settings(
            retention=options.retention, chats_per_connection=options.chats_per_connection, ws_api_endpoint=endpoint
        )
        self.aws = AwsEngine(self._settings, clock=self.clock, failpoints=failpoints)
        return self.aws.protocols

    def _begin(self) -> None:
        self._sources = EventSources(self.aws, self._settings, self.stage.services, self.clock)

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
        """The queues' depths are asked for again and again, since no time may pass."""
        while any(depth.waiting for depth in await self.engine.bus.depths()):
            pass

    def attach(self, client: Client) -> None:
        self.api.attach(client)

    def stall(self, connection_id: str) -> None:
        self.api.stall(connection_id)

    def resume(self, connection_id: str) -> None:
        self.api.resume(connection_id)

    def split(self, frames: bytes) -> Sequence[bytes]:
        return [frames]
