"""Metrics for CloudWatch: lines of its Embedded Metric Format, which it reads out of what a function prints.

    components -> count, observe, gauge -> (one event of Lambda's) -> flush -> a line for each label -> stdout

Rules:
- one line for all that an event has brought, not one for each: what is logged is paid for;
- each name has one dimension at most, of a closed set of values. CloudWatch takes each new value for a new metric, and
  asks 0.30 USD a month for it: a chat, a user or a client's own dimension is never one;
- a client's own names are bounded for each process, which is all that a function knows of.
"""

import sys
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from tocsin import metrics
from tocsin.clock import Clock
from tocsin.metrics import CLIENT_METRICS, ClientMetric, CustomNames

Unit = Literal["Count", "Seconds", "Milliseconds", "None"]

#: name -> its unit, its dimension.
COUNTERS: Final[dict[metrics.Counter, tuple[Unit, str]]] = {
    "publishes": ("Count", "door"),
    "duplicates": ("Count", ""),
    "deliveries": ("Count", ""),
    "drops": ("Count", ""),
    "refusals": ("Count", "code"),
    "dead_letters": ("Count", "queue"),
    "replays": ("Count", ""),
    "connects": ("Count", ""),
    "disconnects": ("Count", ""),
}
HISTOGRAMS: Final[dict[metrics.Histogram, tuple[Unit, str]]] = {
    "accept_to_commit": ("Seconds", ""),
    "commit_to_delivery": ("Seconds", ""),
    "commit_batch_size": ("Count", ""),
    "commit_seconds": ("Seconds", ""),
}
GAUGES: Final[dict[metrics.Gauge, tuple[Unit, str]]] = {
    "connections": ("Count", ""),
    "subscriptions": ("Count", ""),
    "queue_depth": ("Count", "queue"),
    "queue_age": ("Seconds", "queue"),
    "dead_letters_held": ("Count", "queue"),
    "storage_lag": ("Count", ""),
    "disk_full": ("Count", ""),
}
CLIENT_UNITS: Final[dict[str, Unit]] = {"milliseconds": "Milliseconds", "count": "Count"}
#: What CloudWatch takes of one name in a line.
MOST_VALUES: Final = 100


class _Values(msgspec.Struct):
    unit: Unit
    values: list[float]


class EmfMetrics:
    def __init__(self, namespace: str, clock: Clock, write: Callable[[str], object] | None = None) -> None:
        """`write` None: to stdout."""
        self._namespace = namespace
        self._clock = clock
        self._write = write
        #: (dimension, label) -> name -> what it was.
        self._gathered: dict[tuple[str, str], dict[str, _Values]] = {}
        self._custom = CustomNames()

    def count(self, name: metrics.Counter, amount: int = 1, *, label: str = "") -> None:
        unit, dimension = COUNTERS[name]
        values = self._of(dimension, label, name, unit).values
        if values:
            values[0] += amount
        else:
            values.append(amount)

    def observe(self, name: metrics.Histogram, value: float) -> None:
        unit, dimension = HISTOGRAMS[name]
        self._add(dimension, "", name, unit, value)

    def gauge(self, name: metrics.Gauge, value: float, *, label: str = "") -> None:
        unit, dimension = GAUGES[name]
        self._of(dimension, label, name, unit).values[:] = [value]

    def client_reported(self, user_id: str, metrics: list[ClientMetric]) -> None:
        """Refused whole where one name is one too many."""
        self._custom.admit(user_id, metrics)
        for metric in metrics:
            unit = CLIENT_UNITS.get(CLIENT_METRICS.get(metric.name, ""), "None")
            self._add("", "", f"client.{metric.name}", unit, metric.value)

    def flush(self) -> None:
        """Prints what has gathered: the event is done."""
        gathered, self._gathered = self._gathered, {}
        for (dimension, label), names in gathered.items():
            self._print(dimension if label else "", label, names)

    def _add(self, dimension: str, label: str, name: str, unit: Unit, value: float) -> None:
        values = self._of(dimension, label, name, unit).values
        if len(values) == MOST_VALUES:
            self.flush()
            values = self._of(dimension, label, name, unit).values
        values.append(value)

    def _of(self, dimension: str, label: str, name: str, unit: Unit) -> _Values:
        names = self._gathered.setdefault((dimension, label), {})
        return names.setdefault(name, _Values(unit, []))

    def _print(self, dimension: str, label: str, names: dict[str, _Values]) -> None:
        described = {
            "Namespace": self._namespace,
            "Dimensions": [[dimension] if dimension else []],
            "Metrics": [{"Name": name, "Unit": found.unit} for name, found in names.items()],
        }
        line: dict[str, object] = {"_aws": {"Timestamp": self._clock.now(), "CloudWatchMetrics": [described]}}
        if dimension:
            line[dimension] = label
        line |= {name: found.values[0] if len(found.values) == 1 else found.values for name, found in names.items()}
        (self._write or sys.stdout.write)(msgspec.json.encode(line).decode() + "\n")
