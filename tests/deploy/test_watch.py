"""Who is told when something is wrong: alarms to a topic that somebody reads, and one page to look at."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from deploy.aws.assembly import Assembly
from deploy.aws.functions import FUNCTIONS
from tests.deploy.views import subscriptions
from tests.test_docs import ROOT, table
from tocsin.cli.aws_costs import A_MONTH
from tocsin.engines.aws.schema import TABLES
from tocsin.gateways.aws_routes import AUTHORIZER

pytestmark = pytest.mark.slow


def alarms(assembly: Assembly, metric: str) -> list[dict[str, Any]]:
    made = [alarm.properties for alarm in assembly.of("AWS::CloudWatch::Alarm")]
    return [alarm for alarm in made if alarm.get("MetricName") == metric]


def watched(assembly: Assembly, metric: str) -> dict[str, float]:
    """What an alarm looks at -> above which value."""
    return {assembly.text(alarm["Dimensions"][0]["Value"]): alarm["Threshold"] for alarm in alarms(assembly, metric)}


def test_every_alarm_reaches_the_address_given_at_deploy_and_so_does_its_end(plain: Assembly) -> None:
    (reader,) = [each for each in plain.of("AWS::SNS::Subscription") if each.properties["Protocol"] == "email"]
    assert reader.properties["Endpoint"] == "ops@example.com"
    topic = plain.behind(reader.properties["TopicArn"])
    for alarm in plain.of("AWS::CloudWatch::Alarm"):
        (told,), (ended,) = alarm.properties["AlarmActions"], alarm.properties["OKActions"]
        assert plain.behind(told) == plain.behind(ended) == topic
        assert alarm.properties["AlarmDescription"]
    (policy,) = [each for each in plain.of("AWS::SNS::TopicPolicy") if plain.behind(each.properties["Topics"]) == topic]
    allowed = [each for each in policy.properties["PolicyDocument"]["Statement"] if each["Effect"] == "Allow"]
    assert [each["Principal"] for each in allowed] == [{"Service": "cloudwatch.amazonaws.com"}]
    here = {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    assert [each["Condition"] for each in allowed] == [{"StringEquals": here}]


def test_a_letter_in_any_dead_letter_queue_is_an_alarm(plain: Assembly) -> None:
    dead = {
        plain.behind(each.properties["RedrivePolicy"]).id
        for kind in ("AWS::SQS::Queue", "AWS::SNS::Subscription")
        for each in plain.of(kind)
        if "RedrivePolicy" in each.properties
    }
    assert len(dead) == 7
    assert watched(plain, "ApproximateNumberOfMessagesVisible") == {f"${{{each}.QueueName}}": 0 for each in dead}


def test_a_queue_that_stands_still_for_two_minutes_is_an_alarm(plain: Assembly) -> None:
    queues = {plain.behind(each.properties["Endpoint"]).id for each in subscriptions(plain)}
    assert watched(plain, "ApproximateAgeOfOldestMessage") == {f"${{{each}.QueueName}}": 120 for each in queues}


@pytest.mark.parametrize("metric", ["NumberOfNotificationsFailed", "NumberOfNotificationsRedrivenToDlq"])
def test_what_sns_cannot_deliver_is_an_alarm(plain: Assembly, metric: str) -> None:
    topics = {plain.behind(each.properties["TopicArn"]).id for each in subscriptions(plain)}
    assert watched(plain, metric) == {f"${{{each}.TopicName}}": 0 for each in topics}


def test_functions_that_fail_are_throttled_or_slow_are_alarms(plain: Assembly) -> None:
    functions = {f"${{{each.id}}}": each.properties for each in plain.of("AWS::Lambda::Function")}
    assert len(functions) == len(FUNCTIONS)
    (authorizer,) = [name for name, each in functions.items() if each["FunctionName"] == AUTHORIZER]
    assert watched(plain, "Throttles") == dict.fromkeys(functions, 0)
    assert watched(plain, "Errors") == dict.fromkeys(functions.keys() - {authorizer}, 0)
    assert watched(plain, "Duration") == {name: 800 * each["Timeout"] for name, each in functions.items()}
    assert {each["ExtendedStatistic"] for each in alarms(plain, "Duration")} == {"p99"}


def test_a_stranger_without_a_token_rings_no_alarm(plain: Assembly) -> None:
    """To Lambda his 401 is an error. What else its runtime logs, and what cuts the function off, is our fault."""
    counted = plain.one("AWS::Logs::MetricFilter").properties
    assert plain.behind(counted["LogGroupName"]).properties["LogGroupName"] == f"/aws/lambda/{AUTHORIZER}"
    raised = '(($.errorType = "*") && ($.errorMessage != "Unauthorized"))'
    ended = '($.record.status = "timeout") || ($.record.status = "failure")'
    assert counted["FilterPattern"] == f"{{ {raised} || {ended} }}"
    (transformed,) = counted["MetricTransformations"]
    (alarm,) = alarms(plain, transformed["MetricName"])
    assert (alarm["AlarmName"], alarm["Threshold"]) == (f"tocsin-{AUTHORIZER}-errors", 0)
    assert (alarm["Namespace"], transformed["MetricValue"]) == (transformed["MetricNamespace"], "1")


def test_what_functions_log_is_json_and_has_its_fields(plain: Assembly) -> None:
    logging = [each.properties["LoggingConfig"]["LogFormat"] for each in plain.of("AWS::Lambda::Function")]
    assert set(logging) == {"JSON"}


def test_tables_and_indexes_that_refuse_are_alarms(plain: Assembly) -> None:
    """An index counts by itself, under its own name and its table's."""
    asked: dict[str, set[tuple[str, ...]]] = {}
    for alarm in plain.of("AWS::CloudWatch::Alarm"):
        metrics = [each["MetricStat"]["Metric"] for each in alarm.properties.get("Metrics", []) if "MetricStat" in each]
        assert len(metrics) <= 10, "CloudWatch takes no more in one alarm"
        for metric in metrics:
            dimensions = {each["Name"]: each["Value"] for each in metric["Dimensions"]}
            place = (dimensions.pop("TableName"), *dimensions.values())
            assert set(dimensions) <= {"GlobalSecondaryIndexName"}
            asked.setdefault(metric["MetricName"], set()).add(place)
    places: set[tuple[str, ...]] = {(table.name,) for table in TABLES}
    places |= {(table.name, index.name) for table in TABLES for index in table.indexes}
    assert asked == {"ReadThrottleEvents": places, "WriteThrottleEvents": places}


def test_what_watching_costs_is_counted(plain: Assembly) -> None:
    """An alarm is charged for each metric that it looks at; what is computed of them is none."""
    watching = plain.of("AWS::CloudWatch::Alarm")
    looked_at = 0
    for alarm in watching:
        assert alarm.properties.get("Period", 300) >= 60, "more often is dearer"
        looked_at += sum("MetricStat" in each for each in alarm.properties.get("Metrics", [{"MetricStat": {}}]))
    assert A_MONTH["alarm metrics"] == looked_at
    assert A_MONTH["dashboards"] == len(plain.of("AWS::CloudWatch::Dashboard"))
    said = f"{len(watching)} alarms that look at {looked_at} metrics"
    for page in ("aws-costs.md", "aws-deployment-checklist.md"):
        assert said in (ROOT / "docs" / page).read_text()


def test_the_metrics_of_a_websocket_stage_are_asked_for_as_they_are_counted(plain: Assembly) -> None:
    """By API and stage together: under the API alone nothing is counted."""
    api = plain.one("AWS::ApiGatewayV2::Api").id
    for metric in ("IntegrationError", "ExecutionError"):
        (alarm,) = alarms(plain, metric)
        dimensions = {each["Name"]: plain.text(each["Value"]) for each in alarm["Dimensions"]}
        assert dimensions == {"ApiId": f"${{{api}}}", "Stage": "dvl"}


def test_the_silence_of_the_minute_job_is_an_alarm(plain: Assembly) -> None:
    (alarm,) = alarms(plain, "Invocations")
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert alarm["TreatMissingData"] == "breaching"
    assert plain.behind(alarm["Dimensions"]).type == "AWS::Events::Rule"


def test_one_page_shows_doors_bus_functions_and_tables(plain: Assembly) -> None:
    page = json.loads(plain.text(plain.one("AWS::CloudWatch::Dashboard").properties["DashboardBody"]))
    shown = {metric[0] for widget in page["widgets"] for metric in widget["properties"]["metrics"]}
    assert shown == {"AWS/ApiGateway", "AWS/SNS", "AWS/SQS", "AWS/Lambda", "AWS/DynamoDB"}
    text = json.dumps(page)
    assert all(f'"{table.name}"' in text for table in TABLES)


def test_the_page_says_of_every_alarm_what_to_do(plain: Assembly) -> None:
    rows = [row[0].strip("`") for row in table("docs/aws-stack.md", "## Alarms")]
    names = [str(each.properties["AlarmName"]).removeprefix("tocsin-") for each in plain.of("AWS::CloudWatch::Alarm")]
    for name in names:
        assert len([row for row in rows if fnmatchcase(name, row)]) == 1, name
    assert all(any(fnmatchcase(name, row) for name in names) for row in rows)
