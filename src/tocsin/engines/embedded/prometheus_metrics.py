"""Metrics for Prometheus: scraped at the ops listener.

Rule: what is measured is plain numbers until somebody scrapes: the library's own take locks at each change, and
everything that a connection does changes some.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tocsin import metrics
from tocsin.metrics import ClientMetric, CustomNames

#: name -> what it says, its label.
COUNTERS: Final[dict[metrics.Counter, tuple[str, str]]] = {
    "publishes": ("Accepted publishes, by door.", "door"),
    "duplicates": ("Publishes that were answered with an earlier one's receipt.", ""),
    "deliveries": ("Messages handed to connections.", ""),
    "drops": ("Messages that slow readers were told of by gap.", ""),
    "refusals": ("Refusals, by code.", "code"),
    "dead_letters": ("Messages that died, by queue.", "queue"),
    "replays": ("Dead letters that were put back.", ""),
    "connects": ("Connections that were opened.", ""),
    "disconnects": ("Connections that ended.", ""),
}
SECONDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
HISTOGRAMS: Final[dict[metrics.Histogram, tuple[str, tuple[float, ...]]]] = {
    "accept_to_commit": ("Seconds from a publish's arrival to its being durable.", SECONDS),
    "commit_to_delivery": ("Seconds from being durable to being handed to connections.", SECONDS),
    "commit_batch_size": ("Messages in one commit.", SIZES),
    "commit_seconds": ("Seconds that one commit took, with its sync.", SECONDS),
}
GAUGES: Final[dict[metrics.Gauge, tuple[str, str]]] = {
    "connections": ("Open connections.", ""),
    "subscriptions": ("Subscriptions of open connections.", ""),
    "queue_depth": ("Messages that a queue has not done with.", "queue"),
    "queue_age": ("Seconds that a queue's oldest message has waited.", "queue"),
    "dead_letters_held": ("Dead letters, by queue.", "queue"),
    "storage_lag": ("Messages in the log that storage has not moved.", ""),
    "disk_full": ("1 while publishes are refused because the disk is full.", ""),
}


class _Distribution:
    """How many values fell at or below each bound and above the one before; the last is without a bound."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: Final = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """Prometheus's: each counts what the smaller ones count."""
        total, cumulated = 0, []
        for bound, count in zip((*map(float, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            cumulated.append((str(bound), float(total)))
        return cumulated


class PrometheusMetrics(Collector):
    def __init__(self) -> None:
        #: Those without a label stand at nothing from the start.
        self._counts: dict[metrics.Counter, dict[str, int]] = {
            name: {} if label else {"": 0} for name, (_, label) in COUNTERS.items()
        }
        self._levels: dict[metrics.Gauge, dict[str, float]] = {
            name: {} if label else {"": 0} for name, (_, label) in GAUGES.items()
        }
        self._distributions = {name: _Distribution(bounds) for name, (_, bounds) in HISTOGRAMS.items()}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._client_sums = Counter("tocsin_client", "Sums of what clients reported.", ["name"], registry=self.registry)
        self._client_reports = Counter("tocsin_client_reports", "How often.", ["name"], registry=self.registry)
        self._custom = CustomNames()

    def count(self, name: metrics.Counter, amount: int = 1, *, label: str = "") -> None:
        counts = self._counts[name]
        counts[label] = counts.get(label, 0) + amount

    def observe(self, name: metrics.Histogram, value: float) -> None:
        distribution = self._distributions[name]
        distribution.counts[bisect_left(distribution.bounds, value)] += 1
        distribution.sum += value

    def gauge(self, name: metrics.Gauge, value: float, *, label: str = "") -> None:
        self._levels[name][label] = value

    def client_reported(self, user_id: str, metrics: list[ClientMetric]) -> None:
        """Refused whole where one name is one too many; dimensions and users never become labels."""
        self._custom.admit(user_id, metrics)
        for metric in metrics:
            self._client_reports.labels(metric.name).inc()
            if metric.value > 0:
                self._client_sums.labels(metric.name).inc(metric.value)

    def expose(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        for counter, (text, label) in COUNTERS.items():
            counted = CounterMetricFamily(f"tocsin_{counter}", text, labels=[label] if label else [])
            for value, count in self._counts[counter].items():
                counted.add_metric([value] if label else [], count)
            yield counted
        for histogram, (text, _) in HISTOGRAMS.items():
            distribution = self._distributions[histogram]
            yield HistogramMetricFamily(
                f"tocsin_{histogram}", text, buckets=distribution.buckets(), sum_value=distribution.sum
            )
        for gauge, (text, label) in GAUGES.items():
            measured = GaugeMetricFamily(f"tocsin_{gauge}", text, labels=[label] if label else [])
            for value, level in self._levels[gauge].items():
                measured.add_metric([value] if label else [], level)
            yield measured
