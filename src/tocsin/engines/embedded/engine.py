"""The embedded engine: one process, one data folder, everything behind the protocols."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from tocsin.clock import Clock, SystemClock
from tocsin.engine import Engine
from tocsin.engines.embedded.chats import Chats
from tocsin.engines.embedded.data_folder import DataFolder
from tocsin.engines.embedded.hub import Hub
from tocsin.engines.embedded.memory_rates import MemoryRates
from tocsin.engines.embedded.memory_tickets import MemoryTickets
from tocsin.engines.embedded.prometheus_metrics import PrometheusMetrics
from tocsin.engines.embedded.reads import Reads
from tocsin.engines.embedded.sql import QUERY
from tocsin.engines.embedded.sqlite_bus import SqliteBus
from tocsin.engines.embedded.sqlite_messages import SqliteMessages
from tocsin.engines.embedded.sqlite_permissions import SqlitePermissions
from tocsin.failpoints import Failpoints
from tocsin.message import MessageIds

DAY_MILLISECONDS = 86_400_000


class EmbeddedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`retention` in milliseconds; rates in publishes a second for each (user, chat)."""

    data: Path
    restored: bool = False
    retention: int = 30 * DAY_MILLISECONDS
    publish_rate: float = 100
    publish_burst: float = 500
    connections_per_user: int = 100
    chats_per_connection: int = 300
    claim_capacity: int = 2_000_000


class EmbeddedEngine:
    """Opens the folder, and everything on it. `tocsin.engines.embedded.data_folder.FolderError`: it can't be used."""

    def __init__(
        self,
        settings: EmbeddedSettings,
        *,
        frame: Callable[[bytes], bytes],
        clock: Clock | None = None,
        failpoints: Failpoints | None = None,
        random_bits: Callable[[int], int] | None = None,
    ) -> None:
        """`frame` makes a payload a WebSocket frame: the gateway's, since it knows how."""
        clock = clock or SystemClock()
        failpoints = failpoints or Failpoints()
        self.metrics = PrometheusMetrics()
        self.folder = DataFolder(settings.data, restored=settings.restored)
        chats = Chats()
        self.hub = Hub(
            frame=frame,
            clock=clock,
            metrics=self.metrics,
            failpoints=failpoints,
            connections_per_user=settings.connections_per_user,
            chats_per_connection=settings.chats_per_connection,
        )
        self.bus = SqliteBus(
            folder=self.folder,
            chats=chats,
            hub=self.hub,
            clock=clock,
            metrics=self.metrics,
            failpoints=failpoints,
            claim_capacity=settings.claim_capacity,
        )
        self._reads = Reads(self.folder)
        messages = SqliteMessages(
            chats=chats,
            commits=self.bus.commits,
            reads=self._reads,
            clock=clock,
            failpoints=failpoints,
            epoch=self.folder.epoch,
            retention=settings.retention,
        )
        permissions = SqlitePermissions(self.bus.commits, self._reads)
        self.hub.chats, self.hub.messages, self.hub.permissions = chats, messages, permissions
        last = self.folder.writer.execute(QUERY["last_timestamp"]).get
        assert isinstance(last, int)
        self.protocols = Engine(
            bus=self.bus,
            numbers=messages,
            messages=messages,
            permissions=permissions,
            tickets=MemoryTickets(),
            connections=self.hub,
            clients=self.hub,
            rates=MemoryRates(settings.publish_rate, settings.publish_burst, clock.monotonic),
            metrics=self.metrics,
            clock=clock,
            ids=MessageIds(random_bits or _random_bits(), after=last),
            failpoints=failpoints,
        )

    @property
    def fatal(self) -> "asyncio.Future[None]":
        """Done, with its reason, when the store can't go on."""
        return self.bus.commits.fatal

    def start(self) -> None:
        """After the service has given each queue its consumer."""
        self.bus.start()

    async def check_whole(self) -> None:
        """What the quick check at the start did not reach. A damaged store ends the process (`fatal`)."""
        if self.folder.checked:
            return
        fault = await asyncio.get_running_loop().run_in_executor(None, self.folder.check_whole)
        if fault is not None and not self.fatal.done():
            self.fatal.set_exception(RuntimeError(f"{self.folder.database} is damaged: {fault}"))

    async def stop(self) -> None:
        await self.bus.stop()
        await self.hub.stop()
        self._reads.stop()
        self.folder.close()


def _random_bits() -> Callable[[int], int]:
    """An id is no secret, and the kernel is slow to ask for each."""
    return Random(secrets.randbits(256)).getrandbits  # noqa: S311
