"""The Metrics protocol: a closed set of names, and at most one label from a closed set; never a chat, never a user."""

from collections.abc import Iterable
from typing import Final, Literal, Protocol

import msgspec

from tocsin.errors import Refusal

Counter = Literal[
    "publishes", "duplicates", "deliveries", "drops", "refusals", "dead_letters", "replays", "connects", "disconnects"
]
Histogram = Literal["accept_to_commit", "commit_to_delivery", "commit_batch_size", "commit_seconds"]
Gauge = Literal[
    "connections", "subscriptions", "queue_depth", "queue_age", "dead_letters_held", "storage_lag", "disk_full"
]

#: Names that clients may report (POST /metrics), with the unit each is taken in; others must begin with `custom.`.
CLIENT_METRICS: Final = {
    "connect_time": "milliseconds",
    "reconnects": "count",
    "delivery_latency": "milliseconds",
    "publish_latency": "milliseconds",
    "gaps": "count",
    "duplicates": "count",
    "errors": "count",
}
MAX_CUSTOM_METRICS: Final = 100


class ClientMetric(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    value: float
    unit: str
    timestamp: int
    dimensions: dict[str, str]


class CustomNames:
    """The `custom.*` names that one process has let in: so many, and none after."""

    def __init__(self) -> None:
        self._names: Final[set[str]] = set()

    def admit(self, metrics: Iterable[ClientMetric]) -> None:
        """`rate_limited`, and none of them, where one name is one too many."""
        new = {metric.name for metric in metrics} - CLIENT_METRICS.keys() - self._names
        if len(self._names) + len(new) > MAX_CUSTOM_METRICS:
            raise Refusal("rate_limited", f"There are {MAX_CUSTOM_METRICS} custom metrics already.", retry_after=3600)
        self._names.update(new)


class Metrics(Protocol):
    def count(self, name: Counter, amount: int = 1, *, label: str = "") -> None: ...

    def observe(self, name: Histogram, value: float) -> None:
        """Seconds, or a size."""
        ...

    def gauge(self, name: Gauge, value: float, *, label: str = "") -> None: ...

    def client_reported(self, user_id: str, metrics: list[ClientMetric]) -> None:
        """`rate_limited` where a new `custom.*` name is one too many."""
        ...
