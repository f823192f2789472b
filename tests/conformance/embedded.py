"""The embedded engine's stand: a data folder, and a copy of it for each crash."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.harness import Client, Harness, Options
from tocsin.engine import Engine
from tocsin.engines.embedded.engine import EmbeddedEngine, EmbeddedSettings
from tocsin.engines.file_keys import FileKeys
from tocsin.failpoints import Failpoints


class EmbeddedHarness(Harness):
    """A frame is its payload behind four bytes that say how long it is."""

    embedded: EmbeddedEngine

    def __init__(self, path: Path, files: FileKeys) -> None:
        super().__init__(files)
        self._path = path
        self._life = 1

    @property
    def data(self) -> Path:
        return self._path / f"data-{self._life}"

    async def _open(self, options: Options, failpoints: Failpoints) -> Engine:
        self.embedded = EmbeddedEngine(
            EmbeddedSettings(
                data=self.data,
                retention=options.retention,
                publish_rate=options.publish_rate,
                publish_burst=options.publish_burst,
                connections_per_user=options.connections_per_user,
                chats_per_connection=options.chats_per_connection,
                claim_capacity=options.claim_capacity,
            ),
            frame=lambda payload: len(payload).to_bytes(4, "big") + payload,
            clock=self.clock,
            failpoints=failpoints,
        )
        return self.embedded.protocols

    def _begin(self) -> None:
        self.embedded.start()

    async def _close(self) -> None:
        await self.embedded.stop()

    async def _crash(self) -> None:
        """What lies in the folder now is what a killed process would leave."""
        dying, self._life = self.data, self._life + 1
        shutil.copytree(dying, self.data, ignore=shutil.ignore_patterns("lock", "*-shm"))
        await self.embedded.stop()

    def attach(self, client: Client) -> None:
        self.embedded.hub.attach(client.connection_id, client)

    def stall(self, connection_id: str) -> None:
        self.embedded.hub.stalled(connection_id)

    def resume(self, connection_id: str) -> None:
        self.embedded.hub.resumed(connection_id)

    async def lose(self, client: Client) -> None:
        await self.engine.connections.close([client.connection_id])

    async def told(self) -> None:
        """At once."""

    def split(self, frames: bytes) -> Sequence[bytes]:
        payloads = []
        while frames:
            end = 4 + int.from_bytes(frames[:4], "big")
            payloads.append(frames[4:end])
            frames = frames[end:]
        return payloads
