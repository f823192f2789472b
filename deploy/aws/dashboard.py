"""One page of CloudWatch that answers: is it busy, does it stand still, what fails, what does it cost."""

from collections.abc import Iterable, Iterator
from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from deploy.aws.bus import Bus
from deploy.aws.compute import Compute
from deploy.aws.rest_api import RestApi
from deploy.aws.settings import Settings
from deploy.aws.websocket_api import WebSocketApi
from tocsin.engines.aws.schema import TABLES

PERIOD: Final = Duration.minutes(1)
ROW: Final = 4

Graph = tuple[str, Iterable[cloudwatch.IMetric]]


class Dashboard(Construct):
    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        bus: Bus,
        compute: Compute,
        websocket_api: WebSocketApi,
        rest_api: RestApi,
    ) -> None:
        super().__init__(scope, "Dashboard")
        graphs = [
            *_doors(websocket_api, rest_api),
            *_bus(bus),
            *_functions(compute),
            *_tables(settings),
        ]
        cloudwatch.Dashboard(
            self,
            "Page",
            dashboard_name=settings.named("Tocsin"),
            widgets=[
                [
                    cloudwatch.GraphWidget(title=title, left=list(metrics), width=24 // ROW)
                    for title, metrics in graphs[start : start + ROW]
                ]
                for start in range(0, len(graphs), ROW)
            ],
        )


def _doors(websocket_api: WebSocketApi, rest_api: RestApi) -> Iterator[Graph]:
    rest = rest_api.api
    yield "WebSocket", [websocket_api.counts(name, PERIOD) for name in ("ConnectCount", "MessageCount")]
    errors = ("ClientError", "IntegrationError", "ExecutionError")
    yield "WebSocket errors", [websocket_api.counts(name, PERIOD) for name in errors]
    yield (
        "REST",
        [
            rest.metric_count(period=PERIOD),
            rest.metric_client_error(period=PERIOD),
            rest.metric_server_error(period=PERIOD),
        ],
    )
    yield "REST latency (ms)", [rest.metric_latency(period=PERIOD, statistic=each) for each in ("p50", "p99")]


def _bus(bus: Bus) -> Iterator[Graph]:
    queues, topics = bus.queues.values(), bus.topics.values()
    dead = [*bus.dead_letters.values(), *bus.undelivered.values()]
    yield "Published", [topic.metric_number_of_messages_published(period=PERIOD) for topic in topics]
    yield "Oldest message (s)", [queue.metric_approximate_age_of_oldest_message(period=PERIOD) for queue in queues]
    yield "Waiting", [queue.metric_approximate_number_of_messages_visible(period=PERIOD) for queue in queues]
    yield "Dead letters", [queue.metric_approximate_number_of_messages_visible(period=PERIOD) for queue in dead]


def _functions(compute: Compute) -> Iterator[Graph]:
    functions = compute.functions.values()
    yield "Calls", [each.metric_invocations(period=PERIOD) for each in functions]
    yield "Duration, p99 (ms)", [each.metric_duration(period=PERIOD, statistic="p99") for each in functions]
    yield "Errors", [each.metric_errors(period=PERIOD) for each in functions]
    yield "Throttled", [each.metric_throttles(period=PERIOD) for each in functions]


def _tables(settings: Settings) -> Iterator[Graph]:
    for title, name in (
        ("Read units", "ConsumedReadCapacityUnits"),
        ("Write units", "ConsumedWriteCapacityUnits"),
        ("Throttled reads", "ReadThrottleEvents"),
        ("Throttled writes", "WriteThrottleEvents"),
    ):
        yield (
            title,
            [
                cloudwatch.Metric(
                    namespace="AWS/DynamoDB",
                    metric_name=name,
                    dimensions_map={"TableName": settings.table(table.name)},
                    period=PERIOD,
                    statistic="Sum",
                    label=table.name,
                )
                for table in TABLES
            ],
        )
