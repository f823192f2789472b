"""Examples of hypothesis on an engine: each has an engine and a store of its own.

The examples are the same each time. More of them, and others, for a night: EXAMPLES=1000 pytest --timeout=0 -k model
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import msgspec
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

from tests.conformance.harness import Harness
from tocsin.bus import Consumer
from tocsin.topology import Queue

T = TypeVar("T")

MANY: Final = 30
#: Where an example takes seconds.
FEW: Final = 3


class Make(msgspec.Struct, frozen=True):
    """Makes stands of one engine; so many examples are tried on it."""

    stand: Callable[[Path], Harness]
    examples: int = MANY

    def __call__(self, path: Path) -> Harness:
        return self.stand(path)

    @property
    def settings(self) -> settings:
        return settings(
            max_examples=int(os.environ.get("EXAMPLES", self.examples)), derandomize="EXAMPLES" not in os.environ
        )


def try_examples(
    make: Make, examples: SearchStrategy[T], tell: Callable[[Harness, T], Coroutine[None, None, None]]
) -> None:
    """Tells each of them on a stand that has just been started."""

    async def on_a_stand(example: T) -> None:
        async with started(make) as harness:
            await tell(harness, example)

    @make.settings
    @given(examples)
    def each(example: T) -> None:
        asyncio.run(on_a_stand(example))

    each()


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
    machine.make = make
    run_state_machine_as_test(machine, settings=settings(make.settings, stateful_step_count=20))
