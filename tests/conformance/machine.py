"""State machines of hypothesis on an engine: each example has an engine and a loop of its own."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.conformance.harness import Harness, Options
from tocsin.bus import Consumer
from tocsin.topology import Queue

T = TypeVar("T")
Make = Callable[[Path], Harness]


class EngineMachine(RuleBasedStateMachine):
    """Rules call `run`; with `consumers` there is no service."""

    make: ClassVar[Make]
    options: ClassVar[Options] = Options()

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._path = Path(tempfile.mkdtemp(prefix="tocsin-"))
        self.harness = type(self).make(self._path)
        self.run(self.harness.start(self.options, consumers=self.consumers()))

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


def run_machine(machine: type[EngineMachine], make: Make, *, examples: int, steps: int) -> None:
    """The examples are the same each time; `examples` says how many."""

    class Machine(machine):  # type: ignore[valid-type,misc]
        pass

    Machine.make = staticmethod(make)
    Machine.__name__ = Machine.__qualname__ = machine.__name__
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
