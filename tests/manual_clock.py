"""A clock that a test owns: time passes when the test says so, and who sleeps wakes when it has.

test -> advance, run -> whoever awaits `sleep`        test -> jump (the wall's clock is set; nobody wakes)
"""

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, TypeVar

T = TypeVar("T")

#: 2027-01-15, a full minute.
START: Final = 1_800_000_000_000
#: What passes at once while something is waited for, in seconds; and how often.
STEP: Final = 0.02
STEPS: Final = 10_000
#: What passes while others are at work (`is_busy`): about as much as on the wall.
BUSY_STEP: Final = 0.001


class ManualClock:
    """A `tocsin.clock.Clock`. Kept in microseconds, so that steps add up exactly."""

    def __init__(self, now: int = START) -> None:
        """`now` in milliseconds since the epoch."""
        self._wall = now
        self._passed = 1_000_000_000
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = count()
        self._wall_at = self._passed
        #: Whether another process works for us just now: then a deadline of ours must not come before its answer.
        self.is_busy: Callable[[], bool] = lambda: False

    def now(self) -> int:
        return self._wall + (self._passed - self._wall_at) // 1000

    def monotonic(self) -> float:
        return self._passed / 1_000_000

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self._passed + max(0, round(seconds * 1_000_000))
        heapq.heappush(self._sleepers, (due, next(self._tickets), woken))
        self._wake()
        await woken

    def advance(self, seconds: float) -> None:
        """Lets time pass; who was to wake meanwhile does so now, in turn."""
        self._passed += round(seconds * 1_000_000)
        self._wake()

    def jump(self, milliseconds: int) -> None:
        """Somebody sets the wall's clock."""
        self._wall += milliseconds

    async def run(self, awaitable: Awaitable[T], *, step: float = STEP) -> T:
        """Lets time pass until it is done; in steps of so many seconds."""
        task = asyncio.ensure_future(awaitable)
        steps = 0
        while steps < STEPS:
            await asyncio.wait((task,), timeout=0.001)
            if task.done():
                return task.result()
            if self.is_busy():
                self.advance(BUSY_STEP)
            else:
                self.advance(step)
                steps += 1
        raise AssertionError(f"{STEPS * step:.0f} seconds have passed, and this is not done: {awaitable!r}")

    def _wake(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self._passed:
            woken = heapq.heappop(self._sleepers)[2]
            if not woken.done():
                woken.set_result(None)


async def turns(number: int = 10) -> None:
    """Lets everybody who could go on at once do so."""
    for _ in range(number):
        await asyncio.sleep(0)
