"""The REST door: what API Gateway answers by itself, preflights, and whose tokens it lets in."""

import json
import re
from typing import Any

import pytest

from deploy.aws.assembly import Assembly
from tests.deploy.views import PERSON
from tocsin.errors import STATUS
from tocsin.gateways.asgi import ALLOWED_HEADERS, EXPOSED_HEADERS
from tocsin.identity import SCOPES

pytestmark = pytest.mark.slow


def answers(assembly: Assembly) -> dict[str, dict[str, Any]]:
    return {
        each.properties["ResponseType"]: each.properties for each in assembly.of("AWS::ApiGateway::GatewayResponse")
    }


def test_what_api_gateway_answers_itself_has_our_shape(plain: Assembly) -> None:
    for answer in answers(plain).values():
        body = json.loads(answer["ResponseTemplates"]["application/json"])
        assert set(body) == {"message", "code", "requestId"}
        assert body["requestId"] == "$context.requestId"
        assert STATUS[body["code"]] == int(answer["StatusCode"])
        assert answer["ResponseParameters"]["gatewayresponse.header.X-Request-Id"] == "context.requestId"


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("UNAUTHORIZED", 401),
        ("ACCESS_DENIED", 403),
        ("MISSING_AUTHENTICATION_TOKEN", 404),
        ("INVALID_SIGNATURE", 404),
        ("REQUEST_TOO_LARGE", 413),
        ("THROTTLED", 429),
        ("INTEGRATION_FAILURE", 503),
        ("INTEGRATION_TIMEOUT", 503),
        ("DEFAULT_4XX", 400),
        ("DEFAULT_5XX", 503),
    ],
)
def test_a_throttled_function_and_the_like_say_what_to_do(plain: Assembly, kind: str, status: int) -> None:
    answer = answers(plain)[kind]
    headers = {name.rpartition(".")[2]: value for name, value in answer["ResponseParameters"].items()}
    assert int(answer["StatusCode"]) == status
    assert ("Retry-After" in headers) == (status in (429, 503))
    assert (headers.get("WWW-Authenticate") == "'Bearer'") == (status == 401)


def test_a_page_may_read_what_api_gateway_answers(plain: Assembly, dev: Assembly, shared: Assembly) -> None:
    def allowed(assembly: Assembly) -> set[str | None]:
        return {
            answer["ResponseParameters"].get("gatewayresponse.header.Access-Control-Allow-Origin")
            for answer in answers(assembly).values()
        }

    assert allowed(plain) == {None}
    assert allowed(shared) == {"'https://app.example.com'"}
    assert allowed(dev) == {"method.request.header.origin"}, "these answers know no list"
    for answer in answers(dev).values():
        exposed = answer["ResponseParameters"]["gatewayresponse.header.Access-Control-Expose-Headers"]
        assert exposed == f"'{EXPOSED_HEADERS.decode()}'"


def preflights(assembly: Assembly) -> list[tuple[dict[str, str], str]]:
    """Headers and template of each path's answer to OPTIONS."""
    assert assembly.one("AWS::ApiGateway::RestApi").properties["BinaryMediaTypes"] == ["*/*"]
    methods = [each.properties for each in assembly.of("AWS::ApiGateway::Method")]
    found = [each for each in methods if each["HttpMethod"] == "OPTIONS"]
    assert {each["ResourceId"]["Ref"] for each in found} == {each["ResourceId"]["Ref"] for each in methods}
    answered = []
    for each in found:
        (response,) = each["Integration"]["IntegrationResponses"]
        assert (each["Integration"]["Type"], response["StatusCode"]) == ("MOCK", "204")
        assert each["Integration"]["ContentHandling"] == response["ContentHandling"] == "CONVERT_TO_TEXT"
        headers = {name.rpartition(".")[2]: value for name, value in response["ResponseParameters"].items()}
        answered.append((headers, response["ResponseTemplates"]["application/json"]))
    return answered


def test_a_preflight_is_answered_as_text_from_the_list(plain: Assembly, dev: Assembly, shared: Assembly) -> None:
    """Bodies are binary here (`*/*`); a mock that is not told that its answer is text is a 500."""
    assert all(set(headers) == {"Allow"} and template == "" for headers, template in preflights(plain))
    for headers, template in preflights(shared):
        assert headers["Access-Control-Allow-Origin"] == "'https://app.example.com'"
        assert template == ""
    for headers, template in preflights(dev):
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Access-Control-Allow-Headers"] == f"'{ALLOWED_HEADERS.decode()}'"
        assert headers["Access-Control-Allow-Methods"] == headers["Allow"]
        assert headers["Vary"] == "'Origin'"
        listed = re.findall(r'\$origin == "(http[^"]+)"', template)
        assert listed == ["https://app.example.com", "http://localhost:3000"]
        assert {"Origin", "origin"} == set(re.findall(r'header\.get\("(\w+)"\)', template))


def test_head_is_where_get_is(plain: Assembly) -> None:
    served: dict[str, set[str]] = {}
    for method in plain.of("AWS::ApiGateway::Method"):
        path = plain.behind(method.properties["ResourceId"]).properties["PathPart"]
        served.setdefault(path, set()).add(method.properties["HttpMethod"])
    assert served == {
        "publish": {"POST", "OPTIONS"},
        "batch": {"POST", "OPTIONS"},
        "messages": {"GET", "HEAD", "OPTIONS"},
        "permissions": {"GET", "HEAD", "POST", "DELETE", "OPTIONS"},
        "tickets": {"POST", "OPTIONS"},
        "metrics": {"POST", "OPTIONS"},
        "openapi.json": {"GET", "HEAD", "OPTIONS"},
    }


def test_rest_takes_access_tokens_only_a_persons_and_a_back_ends(plain: Assembly) -> None:
    authorizer = plain.one("AWS::ApiGateway::Authorizer").properties
    assert (authorizer["Type"], authorizer["AuthorizerResultTtlInSeconds"]) == ("COGNITO_USER_POOLS", 0)
    public = set()
    for method in plain.of("AWS::ApiGateway::Method"):
        properties = method.properties
        if properties["AuthorizationType"] == "NONE":
            public.add((properties["HttpMethod"], plain.behind(properties["ResourceId"]).properties["PathPart"]))
        else:
            assert properties["AuthorizationType"] == "COGNITO_USER_POOLS"
            assert set(properties["AuthorizationScopes"]) == {PERSON, *(f"tocsin/{scope}" for scope in SCOPES)}
    assert {each for each in public if each[0] != "OPTIONS"} == {("GET", "openapi.json"), ("HEAD", "openapi.json")}
