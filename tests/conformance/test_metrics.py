"""Metrics: a closed set of names, and what clients report within bounds."""

from typing import get_args

import pytest

from tests.conformance.harness import Harness
from tocsin import metrics
from tocsin.errors import Refusal
from tocsin.metrics import CLIENT_METRICS, MAX_CUSTOM_METRICS, MAX_CUSTOM_OF_A_USER, ClientMetric

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
        report(f"user-{number // MAX_CUSTOM_OF_A_USER}", [reported(f"custom.n{number}", -1.0)])
    with pytest.raises(Refusal, match=r"there are 100, .* bring in 0: 1 new ones are too many") as refused:
        report("bob", [reported("custom.n1"), reported("custom.one_too_many")])
    assert (refused.value.code, refused.value.field) == ("invalid_argument", "metrics")
    report("bob", [reported("custom.n1"), reported("gaps")])


async def test_no_user_takes_all_names_from_the_others_and_what_is_refused_takes_none(bare: Harness) -> None:
    report = bare.engine.metrics.client_reported
    report("alice", [reported("custom.first")])
    with pytest.raises(Refusal, match=r"there are 1, .* bring in 1: 20 new ones are too many"):
        report("alice", [reported(f"custom.n{number}") for number in range(MAX_CUSTOM_OF_A_USER)])
    report("alice", [reported(f"custom.n{number}") for number in range(MAX_CUSTOM_OF_A_USER - 1)])
    report("bob", [reported(f"custom.of_bob_{number}") for number in range(MAX_CUSTOM_OF_A_USER)])
