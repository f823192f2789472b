"""The Metrics protocol: a closed set of names, and at most one label from a closed set; never a chat, never a user."""

from collections.abc import Iterable
from typing import Final, Literal, Protocol

import msgspec

from tocsin.errors import invalid

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
#: So that no one user takes them all from the others.
MAX_CUSTOM_OF_A_USER: Final = 20


class ClientMetric(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    value: float
    unit: str
    timestamp: int
    dimensions: dict[str, str]


class CustomNames:
    """The `custom.*` names that one process has let in: so many, and none after; none is ever given up."""

    def __init__(self) -> None:
        #: name -> the user who brought it in.
        self._names: Final[dict[str, str]] = {}

    def admit(self, user_id: str, metrics: Iterable[ClientMetric]) -> None:
        """`invalid_argument`, and none of them, where one name is one too many: to wait would not help."""
        new = {metric.name for metric in metrics} - CLIENT_METRICS.keys() - self._names.keys()
        if not new:
            return
        known, own = len(self._names), list(self._names.values()).count(user_id)
        if known + len(new) > MAX_CUSTOM_METRICS or own + len(new) > MAX_CUSTOM_OF_A_USER:
            raise invalid(
                "metrics",
                f"Of {MAX_CUSTOM_METRICS} custom metrics there are {known}, of the {MAX_CUSTOM_OF_A_USER} that you may "
                f"bring in {own}: {len(new)} new ones are too many.",
            )
        self._names.update(dict.fromkeys(new, user_id))


class Metrics(Protocol):
    def count(self, name: Counter, amount: int = 1, *, label: str = "") -> None: ...

    def observe(self, name: Histogram, value: float) -> None:
        """Seconds, or a size."""
        ...

    def gauge(self, name: Gauge, value: float, *, label: str = "") -> None: ...

    def client_reported(self, user_id: str, metrics: list[ClientMetric]) -> None:
        """`invalid_argument` where a new `custom.*` name is one too many."""
        ...
