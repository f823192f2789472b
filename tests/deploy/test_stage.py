"""The templates deploy, to the emulator: one stage, another beside it, with other settings, anew beside its data.

Rule: one package and one emulator for all; what the emulator lacks is asserted on the template (REFUSED).
"""

from collections.abc import Callable
from pathlib import Path

import boto3
import httpx
import pytest

from deploy.aws.assembly import Assembly
from tests.deploy.conftest import PLAIN, run
from tests.deploy.stage import Deployed, adapted, deploy, is_refused, withdraw
from tests.ministack import PROGRAM, Ministack
from tocsin.engines.aws.settings import FUNCTIONS, AwsSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The functions' code for the emulator's own Python, which runs it."""
    folder = tmp_path_factory.mktemp("package") / "functions"
    done = run("python", "-m", "deploy.aws.package", folder, "--python", PROGRAM.with_name("python"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def make(ministack: Ministack, synthesize: Callable[..., Path], package: Path) -> Callable[..., Deployed]:
    def made(*flags: str, prefix: str = "") -> Deployed:
        named = ("--prefix", prefix) if prefix else ()
        return deploy(synthesize(*PLAIN, *named, *flags, package=package), ministack.url, prefix)

    return made


@pytest.fixture(scope="module")
def deployed(make: Callable[..., Deployed]) -> Deployed:
    return make()


@pytest.fixture
def dev(make: Callable[..., Deployed]) -> Deployed:
    """A second stage, as it is without further settings."""
    return make(prefix="dev-")


def stack_status(name: str) -> str:
    (stack,) = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    return str(stack["StackStatus"])


def test_all_three_stacks_are_complete(deployed: Deployed) -> None:
    assert {name: stack_status(name) for name in ("TocsinLogging", "TocsinData", "Tocsin")} == dict.fromkeys(
        ("TocsinLogging", "TocsinData", "Tocsin"), "CREATE_COMPLETE"
    )


def test_what_the_emulator_is_not_given_is_only_what_it_refuses(plain: Assembly) -> None:
    """The answers of a route and the alarms of all tables: test_websocket_door.py and test_watch.py assert them."""
    for template in plain.templates.values():
        less = adapted(template, "http://127.0.0.1:1")
        left_out = [each for name, each in template["Resources"].items() if name not in less["Resources"]]
        assert all(is_refused(each) for each in left_out)
        for name, resource in less["Resources"].items():
            original = template["Resources"][name]
            if resource != original:
                assert resource["Type"] == "AWS::Lambda::Function"
                variables, were = (each["Properties"]["Environment"]["Variables"] for each in (resource, original))
                changed = {name for name in variables if variables[name] != were[name]}
                assert changed <= {"WS_API_ENDPOINT", "JWKS_URL"}


def test_each_function_finds_in_its_environment_what_it_needs(deployed: Deployed) -> None:
    """Whole, with no intrinsic function left in it."""
    functions = boto3.client("lambda")
    for name in FUNCTIONS:
        told = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
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


def test_two_stages_stand_side_by_side(deployed: Deployed, dev: Deployed) -> None:
    assert stack_status("dev-Tocsin") == "CREATE_COMPLETE"
    tables = boto3.client("dynamodb").list_tables()["TableNames"]
    assert {"ConnectionTable", "dev-ConnectionTable"} <= set(tables)
    assert len({deployed.rest_url, dev.rest_url, deployed.user_pool_id, dev.user_pool_id}) == 4
    assert httpx.get(f"{dev.rest_url}/openapi.json", timeout=30).status_code == 200


def test_other_settings_are_an_update_of_the_same_stage(dev: Deployed, make: Callable[..., Deployed]) -> None:
    after = make("--retention-days", "7", prefix="dev-")
    assert stack_status("dev-Tocsin") == "UPDATE_COMPLETE"
    assert after == dev, "the same doors, the same pool"
    told = boto3.client("lambda").get_function_configuration(FunctionName="dev-processor")["Environment"]["Variables"]
    assert told["RETENTION_DAYS"] == "7"


def test_the_service_can_be_taken_down_and_made_again_beside_its_data(
    dev: Deployed, make: Callable[..., Deployed]
) -> None:
    dynamodb, functions = boto3.client("dynamodb"), boto3.client("lambda")
    row = {"userId": {"S": "alice"}, "chatId": {"S": "chat-a"}, "role": {"S": "owner"}}
    dynamodb.put_item(TableName="dev-UserChatPermissions", Item=row)
    withdraw("dev-")
    with pytest.raises(functions.exceptions.ResourceNotFoundException):
        functions.get_function(FunctionName="dev-processor")
    after = make(prefix="dev-")
    assert stack_status("dev-Tocsin") == "CREATE_COMPLETE"
    key = {name: row[name] for name in ("userId", "chatId")}
    assert dynamodb.get_item(TableName="dev-UserChatPermissions", Key=key)["Item"] == row
    assert (after.user_pool_id, after.web_client_id) == (dev.user_pool_id, dev.web_client_id)
