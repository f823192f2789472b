"""What is exposed: counts by their label, and never a chat or a user."""

from tocsin.engines.embedded.prometheus_metrics import PrometheusMetrics
from tocsin.metrics import ClientMetric


def test_counts_are_exposed_by_their_label() -> None:
    metrics = PrometheusMetrics()
    metrics.count("publishes", 3, label="p2p")
    metrics.count("publishes", label="a2p")
    metrics.count("deliveries", 7)
    metrics.gauge("queue_depth", 2, label="WebSocketFifoQueue")
    metrics.observe("commit_seconds", 0.003)
    exposed = metrics.expose().decode()
    for line in (
        'tocsin_publishes_total{door="p2p"} 3.0',
        'tocsin_publishes_total{door="a2p"} 1.0',
        "tocsin_deliveries_total 7.0",
        'tocsin_queue_depth{queue="WebSocketFifoQueue"} 2.0',
        'tocsin_commit_seconds_bucket{le="0.005"} 1.0',
    ):
        assert line in exposed.splitlines()


def test_what_was_counted_shows_at_every_scrape_and_counts_once() -> None:
    metrics = PrometheusMetrics()
    for total in (2, 4):
        metrics.count("deliveries", 2)
        assert f"tocsin_deliveries_total {total:.1f}" in metrics.expose().decode().splitlines()
    assert "tocsin_deliveries_total 4.0" in metrics.expose().decode().splitlines()


def test_a_distribution_counts_what_is_at_a_bound_below_it_and_what_is_beyond_all_of_them_too() -> None:
    metrics = PrometheusMetrics()
    for size in (1, 2, 3, 5000, 5001):
        metrics.observe("commit_batch_size", size)
    value = metrics.registry.get_sample_value
    counts = {
        le: value("tocsin_commit_batch_size_bucket", {"le": le}) for le in ("1.0", "2.0", "5.0", "5000.0", "+Inf")
    }
    assert counts == {"1.0": 1, "2.0": 2, "5.0": 3, "5000.0": 4, "+Inf": 5}
    assert (value("tocsin_commit_batch_size_count"), value("tocsin_commit_batch_size_sum")) == (5, 10_007)


def test_of_what_clients_report_neither_user_nor_dimensions_are_exposed() -> None:
    metrics = PrometheusMetrics()
    for value in (2.5, -1.0):
        metrics.client_reported(
            "alice",
            [ClientMetric(name="custom.x", value=value, unit="count", timestamp=1, dimensions={"chat": "secret"})],
        )
    exposed = metrics.expose().decode()
    assert 'tocsin_client_total{name="custom.x"} 2.5' in exposed
    assert 'tocsin_client_reports_total{name="custom.x"} 2.0' in exposed
    assert "alice" not in exposed
    assert "secret" not in exposed
