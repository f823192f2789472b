"""CloudWatch's Embedded Metric Format: few lines, few dimensions, and nobody's name."""

from typing import Any, get_args

import msgspec
import pytest

from tests.manual_clock import START, ManualClock
from tocsin import metrics
from tocsin.engines.aws.emf_metrics import COUNTERS, GAUGES, HISTOGRAMS, MOST_VALUES, EmfMetrics
from tocsin.metrics import CLIENT_METRICS, ClientMetric


class Stand:
    """What a function would have printed, line by line."""

    def __init__(self) -> None:
        self.printed: list[str] = []
        self.metrics = EmfMetrics("Tocsin", ManualClock(), self.printed.append)

    def lines(self) -> list[dict[str, Any]]:
        self.metrics.flush()
        printed, self.printed[:] = list(self.printed), []
        assert all(line.endswith("\n") and line.count("\n") == 1 for line in printed)
        return [msgspec.json.decode(line) for line in printed]


@pytest.fixture
def stand() -> Stand:
    return Stand()


def described(line: dict[str, Any]) -> dict[str, Any]:
    """The one metric directive of a line."""
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert isinstance(directive, dict)
    return directive


def reported(name: str, value: float = 1.0) -> ClientMetric:
    return ClientMetric(name=name, value=value, unit="count", timestamp=1_000, dimensions={"user": "alice"})


def test_the_tables_hold_every_name_that_there_is() -> None:
    assert set(COUNTERS) == set(get_args(metrics.Counter))
    assert set(HISTOGRAMS) == set(get_args(metrics.Histogram))
    assert set(GAUGES) == set(get_args(metrics.Gauge))


def test_a_line_says_what_it_measures_in_cloudwatchs_form(stand: Stand) -> None:
    stand.metrics.count("publishes", 3, label="a2p")
    (line,) = stand.lines()
    assert line == {
        "_aws": {
            "Timestamp": START,
            "CloudWatchMetrics": [
                {
                    "Namespace": "Tocsin",
                    "Dimensions": [["door"]],
                    "Metrics": [{"Name": "publishes", "Unit": "Count"}],
                }
            ],
        },
        "door": "a2p",
        "publishes": 3,
    }


def test_all_of_one_event_stands_in_one_line_for_each_label(stand: Stand) -> None:
    for _ in range(10):
        stand.metrics.count("deliveries", 5)
        stand.metrics.observe("commit_to_delivery", 0.25)
        stand.metrics.count("refusals", label="forbidden")
    stand.metrics.gauge("queue_depth", 1, label="WebSocketFifoQueue")
    stand.metrics.gauge("queue_depth", 7, label="WebSocketFifoQueue")
    plain, refusals, depth = stand.lines()
    assert (plain["deliveries"], plain["commit_to_delivery"]) == (50, [0.25] * 10)
    assert (described(plain)["Dimensions"], refusals["refusals"]) == ([[]], 10)
    assert (depth["queue"], depth["queue_depth"]) == ("WebSocketFifoQueue", 7)


def test_an_event_that_measured_nothing_prints_nothing(stand: Stand) -> None:
    assert stand.lines() == []
    stand.metrics.count("connects")
    assert len(stand.lines()) == 1
    assert stand.lines() == []


def test_no_line_holds_more_values_of_a_name_than_cloudwatch_takes(stand: Stand) -> None:
    for index in range(2 * MOST_VALUES + 1):
        stand.metrics.observe("commit_seconds", index)
    values = [line["commit_seconds"] for line in stand.lines()]
    assert [len(some) if isinstance(some, list) else 1 for some in values] == [MOST_VALUES, MOST_VALUES, 1]


def test_no_user_and_no_dimension_of_a_clients_own_is_printed(stand: Stand) -> None:
    stand.metrics.client_reported("alice", [*map(reported, CLIENT_METRICS), reported("custom.frames")])
    (line,) = stand.lines()
    assert "alice" not in str(line)
    assert described(line)["Dimensions"] == [[]]
    units = {metric["Name"]: metric["Unit"] for metric in described(line)["Metrics"]}
    assert (units["client.connect_time"], units["client.gaps"]) == ("Milliseconds", "Count")
    assert units["client.custom.frames"] == "None"
