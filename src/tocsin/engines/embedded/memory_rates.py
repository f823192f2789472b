"""Rates in memory: token buckets, of which only those that are not full are kept."""

from collections.abc import Callable
from typing import Final

SWEEP_AT: Final = 50_000


class MemoryRates:
    def __init__(self, rate: float, burst: float, monotonic: Callable[[], float]) -> None:
        """`rate` publishes a second, at most `burst` at once."""
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        #: (user, chat) -> the moment at which the bucket is full again.
        self._full_at: dict[tuple[str, str], float] = {}
        self._sweep_at = SWEEP_AT

    def take(self, user_id: str, chat_id: str) -> float:
        now = self._monotonic()
        key = (user_id, chat_id)
        full_at = max(self._full_at.get(key, now), now) + 1 / self._rate
        over = full_at - now - self._burst / self._rate
        if over > 1e-9:
            return over
        self._full_at[key] = full_at
        if len(self._full_at) > self._sweep_at:
            self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
            self._sweep_at = max(SWEEP_AT, 2 * len(self._full_at))
        return 0.0
