"""The account that it is deployed to: empty, or with a second stage; what is logged there, and what it is spared."""

import json
import re

import pytest

from deploy.aws.assembly import LOGGING, Assembly
from tests.test_repository import COMMITTED, ROOT

pytestmark = pytest.mark.slow

#: A resource's path is the route's own; any other, a claim but for who it is, a header or a body may hold a secret.
TELLING = re.compile(r"(?<!resource)path$|querystring|header|body|jwt|claims\.(?!sub$|client_id$)", re.IGNORECASE)


def test_the_accounts_logging_role_is_a_stack_of_its_own_and_stays(plain: Assembly, dev: Assembly) -> None:
    for assembly in (plain, dev):
        resources = [resource for resource in assembly if resource.stack == LOGGING]
        assert {resource.type for resource in resources} == {"AWS::ApiGateway::Account", "AWS::IAM::Role"}
        assert all(resource.body["DeletionPolicy"] == "Retain" for resource in resources)
        assert assembly.one("AWS::ApiGateway::Account").stack == LOGGING


def test_nothing_is_reserved_unless_it_is_asked_for(plain: Assembly, dev: Assembly) -> None:
    reserved = "ReservedConcurrentExecutions"
    assert not [each.id for each in plain.of("AWS::Lambda::Function") if reserved in each.properties]
    assert {
        each.properties["FunctionName"]: each.properties[reserved]
        for each in dev.of("AWS::Lambda::Function")
        if reserved in each.properties
    } == {"dev-processor": 60}


def test_two_stages_of_one_account_share_no_name(plain: Assembly, dev: Assembly) -> None:
    def names(assembly: Assembly) -> set[tuple[str, str]]:
        return {
            (resource.type, str(value))
            for resource in assembly
            if resource.stack != LOGGING
            for key, value in resource.properties.items()
            if key.endswith("Name") and isinstance(value, str) and key not in ("StageName", "MetricName", "Name")
        } - {("AWS::Lambda::EventSourceMapping", "")}

    shared = names(plain) & names(dev)
    assert not {each for each in shared if each[0] != "AWS::Cognito::UserPoolResourceServer"}
    assert any(name == "ConnectionTable" for _, name in names(plain))
    assert any(name == "dev-ConnectionTable" for _, name in names(dev))
    domains = {each.text(each.one("AWS::Cognito::UserPoolDomain").properties["Domain"]) for each in (plain, dev)}
    assert domains == {"tocsin-${AccountId}", "dev-tocsin-${AccountId}"}


def test_no_log_holds_a_query_string_a_header_or_a_body(plain: Assembly, dev: Assembly) -> None:
    for assembly in (plain, dev):
        websocket, rest = assembly.one("AWS::ApiGatewayV2::Stage"), assembly.one("AWS::ApiGateway::Stage")
        (methods,) = rest.properties["MethodSettings"]
        for settings in (websocket.properties["DefaultRouteSettings"], methods):
            assert (settings["LoggingLevel"], settings["DataTraceEnabled"]) == ("ERROR", False)
        for line in (
            websocket.properties["AccessLogSettings"]["Format"],
            rest.properties["AccessLogSetting"]["Format"],
        ):
            logged = set(json.loads(line).values())
            assert all(variable.startswith("$context.") for variable in logged)
            assert not [variable for variable in logged if TELLING.search(variable)]


def test_every_log_ends(plain: Assembly, dev: Assembly) -> None:
    for assembly, days in ((plain, 30), (dev, 90)):
        groups = assembly.of("AWS::Logs::LogGroup")
        assert {group.properties["RetentionInDays"] for group in groups} == {days}
        written = {
            assembly.behind(each.properties["LoggingConfig"]).id for each in assembly.of("AWS::Lambda::Function")
        }
        executions = {assembly.text(group.properties["LogGroupName"]): group.id for group in groups}
        for version, key, execution in (
            ("V2", "AccessLogSettings", "/aws/apigateway/${%s}/dvl"),
            ("", "AccessLogSetting", "API-Gateway-Execution-Logs_${%s}/dvl"),
        ):
            stage = assembly.one(f"AWS::ApiGateway{version}::Stage")
            written.add(assembly.behind(stage.properties[key]["DestinationArn"]).id)
            api = assembly.behind(stage.properties.get("ApiId") or stage.properties["RestApiId"])
            made_before = executions[execution % api.id]
            assert made_before in stage.body.get("DependsOn", []), "else API Gateway makes it, without an end"
            written.add(made_before)
        assert written == {group.id for group in groups}, "nothing else writes, and nothing is written elsewhere"
        assert all(group.body["DeletionPolicy"] == "Delete" for group in groups)


def test_no_function_logs_its_event() -> None:
    """It holds tokens and bodies. Powertools' `log_event` would, and Powertools' own switch for it."""
    forbidden = ["log_event", "POWERTOOLS_LOGGER_LOG_EVENT", "aws_lambda_powertools"]
    sources = [path for path in COMMITTED if path.is_relative_to(ROOT / "src") or path.is_relative_to(ROOT / "deploy")]
    assert not [
        f"{path.relative_to(ROOT)} names {word}" for path in sources for word in forbidden if word in path.read_text()
    ]


def test_both_doors_are_throttled_below_what_the_account_has(plain: Assembly) -> None:
    websocket = plain.one("AWS::ApiGatewayV2::Stage").properties["DefaultRouteSettings"]
    (rest,) = plain.one("AWS::ApiGateway::Stage").properties["MethodSettings"]
    together = websocket["ThrottlingRateLimit"] + rest["ThrottlingRateLimit"]
    assert 0 < together <= 5_000, "the account's 10,000 are for callbacks, too"
