"""Metrics for Prometheus: scraped at the ops listener.

Rule: counters and gauges are plain numbers until somebody scrapes: the library's own take a lock at each change, and
everything that a connection does changes some.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
}


class PrometheusMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(f"tocsin_{name}", text, [label] if label else [], registry=self.registry)
            for name, (text, label) in COUNTERS.items()
        }
        self._histograms = {
            name: Histogram(f"tocsin_{name}", text, buckets=buckets, registry=self.registry)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        self._gauges = {
            name: Gauge(f"tocsin_{name}", text, [label] if label else [], registry=self.registry)
            for name, (text, label) in GAUGES.items()
        }
        self._client_sums = Counter("tocsin_client", "Sums of what clients reported.", ["name"], registry=self.registry)
        self._client_reports = Counter("tocsin_client_reports", "How often.", ["name"], registry=self.registry)
        self._custom = CustomNames()
        #: What was counted since the last scrape, and where the gauges stand; by label.
        self._counted: dict[metrics.Counter, dict[str, int]] = {name: {} for name in COUNTERS}
        self._levels: dict[metrics.Gauge, dict[str, float]] = {name: {} for name in GAUGES}

    def count(self, name: metrics.Counter, amount: int = 1, *, label: str = "") -> None:
        counted = self._counted[name]
        counted[label] = counted.get(label, 0) + amount

    def observe(self, name: metrics.Histogram, value: float) -> None:
        self._histograms[name].observe(value)

    def gauge(self, name: metrics.Gauge, value: float, *, label: str = "") -> None:
        self._levels[name][label] = value

    def client_reported(self, user_id: str, metrics: list[ClientMetric]) -> None:
        """Refused whole where one name is one too many; dimensions and users never become labels."""
        self._custom.admit(metrics)
        for metric in metrics:
            self._client_reports.labels(metric.name).inc()
            if metric.value > 0:
                self._client_sums.labels(metric.name).inc(metric.value)

    def expose(self) -> bytes:
        """The text format of Prometheus."""
        self.settle()
        return generate_latest(self.registry)

    def settle(self) -> None:
        """What was counted goes to the registry."""
        for counter, counted in self._counted.items():
            for label, amount in counted.items():
                (self._counters[counter].labels(label) if label else self._counters[counter]).inc(amount)
            counted.clear()
        for gauge, levels in self._levels.items():
            for label, level in levels.items():
                (self._gauges[gauge].labels(label) if label else self._gauges[gauge]).set(level)
