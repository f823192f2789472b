"""Metric Collector: which reports are taken, and which are refused at which field."""

import math

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import identity
from tocsin.components.metric_collector import MAX_DIMENSIONS, MAX_METRICS, ReportedMetric
from tocsin.errors import Refusal
from tocsin.metrics import CLIENT_METRICS

ALICE = identity("alice")


async def refusal(harness: EmbeddedHarness, *metrics: ReportedMetric) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refused:
        await harness.service.metric_collector.collect(ALICE, metrics)
    return refused.value.code, refused.value.field


async def test_listed_names_and_names_of_ones_own_are_taken(harness: EmbeddedHarness) -> None:
    listed = [ReportedMetric(name=name, value=1.5, unit=unit) for name, unit in CLIENT_METRICS.items()]
    own = ReportedMetric(
        name="custom.my.metric_1",
        value=2,
        unit="bananas",
        timestamp="2027-01-15T09:00:00+01:00",
        dimensions={"browser": "x"},
    )
    await harness.service.metric_collector.collect(ALICE, [*listed, own])
    value = harness.embedded.metrics.registry.get_sample_value
    assert value("tocsin_client_total", {"name": "custom.my.metric_1"}) == 2
    assert value("tocsin_client_total", {"name": "connect_time"}) == 1.5


@pytest.mark.parametrize(
    ("metric", "field"),
    [
        (ReportedMetric(name="made_up", value=1), "name"),
        (ReportedMetric(name="custom.", value=1), "name"),
        (ReportedMetric(name="custom.UPPER", value=1), "name"),
        (ReportedMetric(name="custom." + "x" * 65, value=1), "name"),
        (ReportedMetric(name="gaps", value=math.inf), "value"),
        (ReportedMetric(name="gaps", value=math.nan), "value"),
        (ReportedMetric(name="gaps", value=1, unit="bananas"), "unit"),
        (ReportedMetric(name="custom.x", value=1, unit="x" * 33), "unit"),
        (ReportedMetric(name="gaps", value=1, timestamp="yesterday"), "timestamp"),
        (ReportedMetric(name="gaps", value=1, timestamp="2027-01-15T09:00:00"), "timestamp"),
        (ReportedMetric(name="gaps", value=1, dimensions={"x" * 65: "1"}), "dimensions"),
        (ReportedMetric(name="gaps", value=1, dimensions={"x": "1" * 129}), "dimensions"),
        (
            ReportedMetric(name="gaps", value=1, dimensions={str(n): "1" for n in range(MAX_DIMENSIONS + 1)}),
            "dimensions",
        ),
    ],
)
async def test_a_report_that_is_wrong_is_refused_with_its_place_and_nothing_is_counted(
    harness: EmbeddedHarness, metric: ReportedMetric, field: str
) -> None:
    good = ReportedMetric(name="gaps", value=1)
    assert await refusal(harness, good, metric) == ("invalid_argument", f"metrics[1].{field}")
    assert harness.embedded.metrics.registry.get_sample_value("tocsin_client_total", {"name": "gaps"}) is None


async def test_one_to_a_hundred_are_taken_at_once(harness: EmbeddedHarness) -> None:
    good = ReportedMetric(name="gaps", value=1)
    assert await refusal(harness) == ("invalid_argument", "metrics")
    assert await refusal(harness, *[good] * (MAX_METRICS + 1)) == ("invalid_argument", "metrics")
    await harness.service.metric_collector.collect(ALICE, [good] * MAX_METRICS)
