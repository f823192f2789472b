"""The templates deploy, to the emulator: one stage, another beside it, with other settings, anew beside its data.

Rule: one package and one emulator for all; what the emulator lacks is asserted on the template (REFUSED).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from deploy.aws.assembly import Assembly
from tests.deploy.conftest import PLAIN
from tests.deploy.stage import Deployed, adapted, deploy, is_refused, withdraw
from tests.ministack import Ministack
from tocsin.engines.aws.settings import FUNCTIONS, AwsSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def make(ministack: Ministack, synthesize: Callable[..., Path], package_here: Path) -> Callable[..., Deployed]:
    def made(*flags: str, prefix: str = "") -> Deployed:
        named = ("--prefix", prefix) if prefix else ()
        return deploy(synthesize(*PLAIN, *named, *flags, package=package_here), ministack.url, prefix)

    return made


@pytest.fixture(scope="module")
def deployed(make: Callable[..., Deployed]) -> Deployed:
    return make()


@pytest.fixture
def dev(make: Callable[..., Deployed]) -> Deployed:
    """A second stage, as it is without further settings."""
    return make(prefix="dev-")


class Account:
    """What stands in the emulator."""

    def __init__(self) -> None:
        self.cloudformation = boto3.client("cloudformation")
        self.dynamodb = boto3.client("dynamodb")
        self.functions = boto3.client("lambda")

    def status(self, stack: str) -> str:
        (found,) = self.cloudformation.describe_stacks(StackName=stack)["Stacks"]
        return str(found["StackStatus"])

    def told(self, function: str) -> dict[str, str]:
        """Its environment."""
        found: dict[str, str] = self.functions.get_function_configuration(FunctionName=function)["Environment"][
            "Variables"
        ]
        return found

    def close(self) -> None:
        for client in (self.cloudformation, self.dynamodb, self.functions):
            client.close()


@pytest.fixture(scope="module")
def account(ministack: Ministack) -> Iterator[Account]:
    with closing(Account()) as opened:
        yield opened


@pytest.mark.parametrize("stack", ["TocsinLogging", "TocsinData", "Tocsin"])
def test_every_stack_is_complete(deployed: Deployed, account: Account, stack: str) -> None:
    assert account.status(stack) == "CREATE_COMPLETE"


def essence(resource: dict[str, Any]) -> dict[str, Any]:
    """Without what the emulator may be given otherwise (stage.py says why)."""
    kept: dict[str, Any] = json.loads(
        json.dumps(resource).replace('["sns:Publish", "sns:PublishBatch"]', '"sns:Publish"')
    )
    kept.pop("DependsOn", None)
    properties = kept.get("Properties", {})
    if resource["Type"] == "AWS::Lambda::Function":
        for name in ("WS_API_ENDPOINT", "JWKS_URL"):
            properties["Environment"]["Variables"].pop(name, None)
    if resource["Type"] in ("AWS::SNS::TopicPolicy", "AWS::SQS::QueuePolicy"):
        policy = properties["PolicyDocument"]
        policy["Statement"] = [statement for statement in policy["Statement"] if statement["Effect"] == "Allow"]
    return kept


def test_the_emulator_is_given_the_template_but_for_what_it_cannot_do(plain: Assembly) -> None:
    """What is left out is asserted on the template: test_websocket_door.py, test_watch.py, test_queues.py."""
    for template in plain.templates.values():
        given = adapted(template, "http://127.0.0.1:1")["Resources"]
        for name, resource in template["Resources"].items():
            if name in given:
                assert essence(given[name]) == essence(resource)
            else:
                allows_nothing = essence(resource)["Properties"].get("PolicyDocument", {}).get("Statement") == []
                assert is_refused(resource) or allows_nothing
        assert set(given) <= set(template["Resources"])


def test_each_function_finds_in_its_environment_what_it_needs(deployed: Deployed, account: Account) -> None:
    """Whole, with no intrinsic function left in it."""
    for name in FUNCTIONS:
        told = account.told(name)
        AwsSettings.read(name, told)  # or EnvironmentFault
        assert not [value for value in told.values() if "${" in value or "Fn::" in value]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/messages?chatId=a", 401, "unauthorized"),
        ("HEAD", "/messages?chatId=a", 401, None),
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", "/publish", 404, "not_found"),
        ("OPTIONS", "/publish", 204, None),
    ],
)
def test_api_gateway_answers_by_itself_in_our_form(
    deployed: Deployed, method: str, path: str, status: int, says: str | None
) -> None:
    answer = httpx.request(method, f"{deployed.rest_url}{path}", timeout=30)
    assert answer.status_code == status, answer.text
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    if says is not None:
        assert answer.json() | {"message": ""} == {
            "message": "",
            "code": says,
            "requestId": answer.headers["X-Request-Id"],
        }


def test_the_rest_door_answers_through_its_function(deployed: Deployed) -> None:
    answer = httpx.get(f"{deployed.rest_url}/openapi.json", timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["openapi"].startswith("3.1")


def test_two_stages_stand_side_by_side(deployed: Deployed, dev: Deployed, account: Account) -> None:
    assert account.status("dev-Tocsin") == "CREATE_COMPLETE"
    assert {"ConnectionTable", "dev-ConnectionTable"} <= set(account.dynamodb.list_tables()["TableNames"])
    assert len({deployed.rest_url, dev.rest_url, deployed.user_pool_id, dev.user_pool_id}) == 4
    assert httpx.get(f"{dev.rest_url}/openapi.json", timeout=30).status_code == 200


def test_other_settings_are_an_update_of_the_same_stage(
    dev: Deployed, account: Account, make: Callable[..., Deployed]
) -> None:
    after = make("--retention-days", "7", prefix="dev-")
    assert account.status("dev-Tocsin") == "UPDATE_COMPLETE"
    assert after == dev, "the same doors, the same pool"
    assert account.told("dev-processor")["RETENTION_DAYS"] == "7"


def test_the_service_can_be_taken_down_and_made_again_beside_its_data(
    dev: Deployed, account: Account, ministack: Ministack, make: Callable[..., Deployed]
) -> None:
    key = {"userId": {"S": "alice"}, "chatId": {"S": "chat-a"}}
    account.dynamodb.put_item(TableName="dev-UserChatPermissions", Item={**key, "role": {"S": "owner"}})
    withdraw(ministack.url, "dev-")
    with pytest.raises(account.functions.exceptions.ResourceNotFoundException):
        account.told("dev-processor")
    after = make(prefix="dev-")
    assert account.status("dev-Tocsin") == "CREATE_COMPLETE"
    kept = account.dynamodb.get_item(TableName="dev-UserChatPermissions", Key=key)["Item"]
    assert kept["role"] == {"S": "owner"}
    assert (after.user_pool_id, after.web_client_id) == (dev.user_pool_id, dev.web_client_id)
