"""What wakes somebody up: alarms, on one topic, with a subscriber from the first day.

Rules:
- a dead letter, a message that SNS could not deliver, and a queue that stands still are alarms of their own: each is a
  promise that is not being kept;
- silence is no alarm, but that of the minute job: without it no token's end is noticed;
- no stranger's token rings one. An authorizer says 401 by raising "Unauthorized", which Lambda counts as an error like
  any, so its errors are counted from its log, without those.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
from aws_cdk import Aws, Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from deploy.aws.bus import Bus
from deploy.aws.compute import Compute
from deploy.aws.functions import FUNCTIONS
from deploy.aws.rest_api import RestApi
from deploy.aws.settings import Settings
from deploy.aws.websocket_api import WebSocketApi
from tocsin.engines.aws.schema import TABLES
from tocsin.gateways.aws_routes import AUTHORIZER

#: Seconds that a queue's oldest message may have waited: a chat stands still, or messages are missing in history.
OLDEST: Final = 120
#: The part of its time that a function may take at the 99th percentile.
SLOW: Final = 0.8

MINUTE: Final = Duration.minutes(1)
MINUTES: Final = Duration.minutes(5)
COMPARISON: Final = {
    False: cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
    True: cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
}
SILENCE: Final = {False: cloudwatch.TreatMissingData.NOT_BREACHING, True: cloudwatch.TreatMissingData.BREACHING}


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm when the metric is above `threshold` (with `least`: below it, or silent) for `periods` in a row."""

    name: str
    says: str
    metric: cloudwatch.IMetric
    threshold: float = 0
    periods: int = 1
    least: bool = False


class Alarms(Construct):
    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        bus: Bus,
        compute: Compute,
        websocket_api: WebSocketApi,
        rest_api: RestApi,
        minute_job: str,
    ) -> None:
        super().__init__(scope, "Alarms")
        self.topic: Final = sns.Topic(self, "Topic", topic_name=settings.named("TocsinAlarms"), enforce_ssl=True)
        self.topic.add_subscription(subscriptions.EmailSubscription(settings.alarm_email))
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="AlarmsOfThisAccount",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
        tell = actions.SnsAction(self.topic)
        for watched in (
            *_dead_letters(bus),
            *_waiting(bus),
            *_undelivered(bus),
            *self._functions(settings, compute),
            *_doors(websocket_api, rest_api),
            *_tables(settings),
            _minute_job(minute_job),
        ):
            alarm = cloudwatch.Alarm(
                self,
                watched.name,
                alarm_name=settings.named(f"tocsin-{watched.name}"),
                alarm_description=watched.says,
                metric=watched.metric,
                threshold=watched.threshold,
                evaluation_periods=watched.periods,
                comparison_operator=COMPARISON[watched.least],
                treat_missing_data=SILENCE[watched.least],
            )
            alarm.add_alarm_action(tell)
            alarm.add_ok_action(tell)

    def _functions(self, settings: Settings, compute: Compute) -> Iterator[Watched]:
        for function in FUNCTIONS:
            made = compute.functions[function.name]
            yield Watched(
                name=f"{function.name}-errors",
                says=f"{function.name} fails.",
                metric=(
                    self._authorizer_faults(settings, made)
                    if function.name == AUTHORIZER
                    else made.metric_errors(period=MINUTES, statistic="Sum")
                ),
            )
            yield Watched(
                name=f"{function.name}-throttles",
                says=f"{function.name} is refused a start: the account's concurrency, or its reservation, is used up.",
                metric=made.metric_throttles(period=MINUTES, statistic="Sum"),
            )
            yield Watched(
                name=f"{function.name}-slow",
                says=f"One in a hundred calls of {function.name} takes over {SLOW:.0%} of its {function.timeout} s.",
                metric=made.metric_duration(period=MINUTES, statistic="p99"),
                threshold=SLOW * function.timeout * 1000,
                periods=3,
            )

    def _authorizer_faults(self, settings: Settings, authorizer: lambda_.Function) -> cloudwatch.Metric:
        """What its runtime logs when it raises, and what Lambda logs when it is cut off or dies."""
        field = logs.FilterPattern.string_value
        counted = logs.MetricFilter(
            self,
            "AuthorizerFaults",
            log_group=authorizer.log_group,
            metric_namespace=settings.named("Tocsin"),
            metric_name="authorizer_faults",
            filter_pattern=logs.FilterPattern.any(
                logs.FilterPattern.all(
                    logs.FilterPattern.exists("$.errorType"), field("$.errorMessage", "!=", "Unauthorized")
                ),
                field("$.record.status", "=", "timeout"),
                field("$.record.status", "=", "failure"),
            ),
        )
        return counted.metric(period=MINUTES, statistic="Sum")


def _dead_letters(bus: Bus) -> Iterator[Watched]:
    for name, queue in bus.dead_letters.items():
        yield Watched(
            name=f"{name}-dead-letters",
            says=f"Messages of {name} are dead letters: `tocsin dlq list --aws`.",
            metric=queue.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum"),
        )
    for (topic, name), queue in bus.undelivered.items():
        yield Watched(
            name=f"{topic.removesuffix('.fifo')}-{name}-undelivered",
            says=f"SNS could not deliver messages of {topic} to {name}: send them to the queue once it can take them.",
            metric=queue.metric_approximate_number_of_messages_visible(period=MINUTE, statistic="Maximum"),
        )


def _waiting(bus: Bus) -> Iterator[Watched]:
    for name, queue in bus.queues.items():
        yield Watched(
            name=f"{name}-waiting",
            says=f"The oldest message of {name} has waited for {OLDEST} seconds.",
            metric=queue.metric_approximate_age_of_oldest_message(period=MINUTE, statistic="Maximum"),
            threshold=OLDEST,
        )


def _undelivered(bus: Bus) -> Iterator[Watched]:
    for name, topic in bus.topics.items():
        short = name.removesuffix(".fifo")
        yield Watched(
            name=f"{short}-failed",
            says=f"SNS fails to deliver messages of {name}.",
            metric=topic.metric_number_of_notifications_failed(period=MINUTE, statistic="Sum"),
        )
        yield Watched(
            name=f"{short}-redriven",
            says=f"SNS gave up messages of {name}: they are in a dead-letter queue of a subscription.",
            metric=topic.metric("NumberOfNotificationsRedrivenToDlq", period=MINUTE, statistic="Sum"),
        )


def _doors(websocket_api: WebSocketApi, rest_api: RestApi) -> Iterator[Watched]:
    yield Watched(
        name="rest-5xx",
        says="The REST door answers with 5xx: whether those requests were done is unknown to who made them.",
        metric=rest_api.api.metric_server_error(period=MINUTES, statistic="Sum"),
        threshold=5,
    )
    for name in ("IntegrationError", "ExecutionError"):
        yield Watched(
            name=f"websocket-{name}",
            says=f"API Gateway counts {name} on the WebSocket door.",
            metric=websocket_api.counts(name, MINUTES),
            threshold=5,
        )


def _tables(settings: Settings) -> Iterator[Watched]:
    """A table's own count leaves its indexes out. One alarm takes ten metrics at most: there are nine."""
    places = [{"TableName": settings.table(table.name)} for table in TABLES]
    places += [
        {"TableName": settings.table(table.name), "GlobalSecondaryIndexName": index.name}
        for table in TABLES
        for index in table.indexes
    ]
    for kind in ("Read", "Write"):
        metrics = {
            f"m{number}": cloudwatch.Metric(
                namespace="AWS/DynamoDB",
                metric_name=f"{kind}ThrottleEvents",
                dimensions_map=place,
                statistic="Sum",
            )
            for number, place in enumerate(places)
        }
        yield Watched(
            name=f"tables-{kind.lower()}s-throttled",
            says=f"DynamoDB refuses {kind.lower()}s: it grows with the load, or one chat is too hot for one partition.",
            metric=cloudwatch.MathExpression(expression="SUM(METRICS())", using_metrics=metrics, period=MINUTES),
            periods=2,
        )


def _minute_job(rule: str) -> Watched:
    return Watched(
        name="minute-job-silent",
        says="The job of each minute does not run: tokens' ends and gaps are not told.",
        metric=cloudwatch.Metric(
            namespace="AWS/Events",
            metric_name="Invocations",
            dimensions_map={"RuleName": rule},
            period=MINUTES,
            statistic="Sum",
        ),
        threshold=1,
        periods=2,
        least=True,
    )
