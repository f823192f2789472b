"""Metrics: a closed set of names, and what clients report within bounds."""

from typing import get_args

import pytest

from tests.conformance.harness import Harness, refusal_of
from tocsin import metrics
from tocsin.metrics import CLIENT_METRICS, MAX_CUSTOM_METRICS, ClientMetric

LABELS = {"publishes": "p2p", "refusals": "forbidden", "dead_letters": "WebSocketFifoQueue"}
GAUGE_LABELS = {"queue_depth": "WebSocketFifoQueue", "queue_age": "q", "dead_letters_held": "q"}


def reported(name: str, value: float = 1.0) -> ClientMetric:
    return ClientMetric(name=name, value=value, unit="count", timestamp=1_000, dimensions={"browser": "x"})


async def test_every_name_of_the_closed_set_is_taken(bare: Harness) -> None:
    for counter in get_args(metrics.Counter):
        bare.engine.metrics.count(counter, 3, label=LABELS.get(counter, ""))
    for histogram in get_args(metrics.Histogram):
        bare.engine.metrics.observe(histogram, 0.25)
    for gauge in get_args(metrics.Gauge):
        bare.engine.metrics.gauge(gauge, 7, label=GAUGE_LABELS.get(gauge, ""))


async def test_any_other_name_is_a_defect(bare: Harness) -> None:
    with pytest.raises(KeyError):
        bare.engine.metrics.count("made_up")  # type: ignore[arg-type]


async def test_clients_report_what_is_listed_and_names_of_their_own_up_to_a_bound(bare: Harness) -> None:
    report = bare.engine.metrics.client_reported
    report("alice", [reported(name) for name in CLIENT_METRICS])
    for number in range(MAX_CUSTOM_METRICS):
        report("alice", [reported(f"custom.n{number}", -1.0)])

    async def one_too_many() -> None:
        report("bob", [reported("custom.n1"), reported("custom.one_too_many")])

    assert await refusal_of(one_too_many()) == "rate_limited"
    report("bob", [reported("custom.n1"), reported("gaps")])
