"""The WebSocket door, as AWS needs it and no emulator asks for: answers, the authorizer, callbacks, the minute job."""

import pytest

from deploy.aws.assembly import Assembly
from deploy.aws.functions import BY_NAME
from tests.deploy.views import variables
from tocsin.gateways.aws_sockets import FRAME_SECONDS
from tocsin.profiles.aws import OWN_SECONDS

pytestmark = pytest.mark.slow

#: API Gateway waits for it, too, and the function's own time begins after it.
COLD_START_SECONDS = 3.0


def test_each_route_of_a_frame_sends_its_answer_back(plain: Assembly) -> None:
    answering = {
        plain.behind(response.properties["RouteId"]).properties["RouteKey"]
        for response in plain.of("AWS::ApiGatewayV2::RouteResponse")
        if response.properties["RouteResponseKey"] == "$default"
    }
    routes = {route.properties["RouteKey"]: route.properties for route in plain.of("AWS::ApiGatewayV2::Route")}
    assert answering == set(routes) - {"$connect", "$disconnect"}
    assert all(routes[key]["RouteResponseSelectionExpression"] == "$default" for key in answering)


def test_every_client_sends_what_the_authorizer_is_asked_with(plain: Assembly) -> None:
    authorizer = plain.one("AWS::ApiGatewayV2::Authorizer").properties
    assert (authorizer["AuthorizerType"], authorizer["IdentitySource"]) == ("REQUEST", ["route.request.header.Host"])
    guarded = {
        route.properties["RouteKey"]
        for route in plain.of("AWS::ApiGatewayV2::Route")
        if route.properties["AuthorizationType"] == "CUSTOM"
    }
    assert guarded == {"$connect"}, "a WebSocket API can authorize nothing else"


def test_callbacks_go_to_the_stage_itself_whatever_the_domain(plain: Assembly, dev: Assembly, shared: Assembly) -> None:
    for assembly in (plain, dev, shared):
        (endpoint,) = variables(assembly, "WS_API_ENDPOINT")
        api = assembly.one("AWS::ApiGatewayV2::Api")
        assert endpoint == f"https://${{{api.id}}}.execute-api.${{Region}}.${{URLSuffix}}/dvl"
        assert api.properties["DisableExecuteApiEndpoint"] is False
        assert assembly.one("AWS::ApiGateway::RestApi").properties["DisableExecuteApiEndpoint"] is False


def test_tokens_that_end_are_looked_for_each_minute(plain: Assembly) -> None:
    rule = plain.one("AWS::Events::Rule").properties
    (target,) = rule["Targets"]
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 minute)", "ENABLED")
    assert plain.behind(target["Arn"]).properties["FunctionName"] == "connection-handler"
    given_up = {"MaximumEventAgeInSeconds": 60, "MaximumRetryAttempts": 0}
    assert target["RetryPolicy"] == given_up
    invoked = plain.one("AWS::Lambda::EventInvokeConfig").properties
    assert {name: invoked[name] for name in given_up} == given_up, "sixty stale jobs would follow an hour of throttling"


def test_the_connection_handler_keeps_the_seeds_time_though_its_door_waits_less(plain: Assembly) -> None:
    assert BY_NAME["connection-handler"].timeout == 30
    doors = [*plain.of("AWS::ApiGatewayV2::Integration"), *plain.of("AWS::ApiGateway::Method")]
    waits = {door.properties.get("Integration", door.properties).get("TimeoutInMillis", 29_000) for door in doors}
    assert waits == {29_000}
    (wait,) = waits
    assert OWN_SECONDS["connection-handler"] == FRAME_SECONDS
    assert FRAME_SECONDS + COLD_START_SECONDS < wait / 1000 < BY_NAME["connection-handler"].timeout


def test_a_websocket_stage_is_not_asked_for_what_it_cannot_do(dev: Assembly) -> None:
    """X-Ray and WAF: a WebSocket stage has neither."""
    assert "TracingEnabled" not in dev.one("AWS::ApiGatewayV2::Stage").properties
    assert not dev.of("AWS::WAFv2::WebACLAssociation")
