"""Examples of hypothesis on an engine: each has an engine and a store of its own.

The examples are the same each time. More of them, and others, for a night: EXAMPLES=1000 pytest -k model
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.conformance.harness import Harness
from tocsin.bus import Consumer
from tocsin.topology import Queue

T = TypeVar("T")
Make = Callable[[Path], Harness]

MANY: Final = settings(max_examples=int(os.environ.get("EXAMPLES", "30")), derandomize="EXAMPLES" not in os.environ)


@asynccontextmanager
async def started(make: Make) -> AsyncIterator[Harness]:
    with tempfile.TemporaryDirectory(prefix="tocsin-") as path:
        harness = make(Path(path))
        await harness.start()
        try:
            yield harness
        finally:
            await harness.stop()


class EngineMachine(RuleBasedStateMachine):
    """A state machine whose rules call `run`; with `consumers` there is no service."""

    make: ClassVar[Make]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._path = Path(tempfile.mkdtemp(prefix="tocsin-"))
        self.harness = type(self).make(self._path)
        self.run(self.harness.start(consumers=self.consumers()))

    def consumers(self) -> Mapping[Queue, Consumer] | None:
        return None

    def run(self, coroutine: Coroutine[None, None, T]) -> T:
        return self._runner.run(coroutine)

    def conclude(self) -> None:
        """What must hold when all is over."""

    def teardown(self) -> None:
        try:
            self.conclude()
        finally:
            self.run(self.harness.stop())
            self._runner.close()
            shutil.rmtree(self._path)


def run_machine(machine: type[EngineMachine], make: Make) -> None:
    machine.make = staticmethod(make)
    run_state_machine_as_test(machine, settings=settings(MANY, stateful_step_count=20))
