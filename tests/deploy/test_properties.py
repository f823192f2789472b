"""What a template says of security, cost and loss, and what no emulator would miss if it were said no more."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from deploy.aws.assembly import DATA, LOGGING, SERVICE, Assembly
from tests.deploy.conftest import PLAIN

pytestmark = pytest.mark.slow

MEMORY: Final = {
    "websocket-authorizer": 512,
    "connection-handler": 512,
    "p2pWebSocketPublisher": 512,
    "a2pHttpPublisher": 512,
    "processor": 1024,
    "message-storage": 512,
    "message-retrieval": 512,
    "chat-permission": 512,
    "metric-collector": 512,
}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("AWS::Lambda::Function", "Architectures", ["arm64"]),
        ("AWS::Cognito::UserPool", "AdminCreateUserConfig.AllowAdminCreateUserOnly", True),
        ("AWS::Cognito::UserPoolClient", "EnableTokenRevocation", True),
        ("AWS::Cognito::UserPoolClient", "PreventUserExistenceErrors", "ENABLED"),
        ("AWS::SecretsManager::Secret", "GenerateSecretString.PasswordLength", 64),
    ],
)
def test_each_of_a_kind_has_it(plain: Assembly, kind: str, path: str, value: object) -> None:
    def found(properties: Any) -> Any:
        for name in path.split("."):
            properties = properties[name]
        return properties

    assert plain.of(kind)
    for resource in plain.of(kind):
        assert found(resource.properties) == value, resource.id


def test_a_function_has_the_memory_that_times_and_costs_are_of(plain: Assembly) -> None:
    made = [each.properties for each in plain.of("AWS::Lambda::Function")]
    assert {each["FunctionName"]: each["MemorySize"] for each in made} == MEMORY


def test_no_stack_is_deleted_before_its_protection_is_taken_off(synthesize: Callable[..., Path]) -> None:
    manifest = json.loads((synthesize(*PLAIN) / "manifest.json").read_text())
    protected = {
        name: each["properties"].get("terminationProtection", False)
        for name, each in manifest["artifacts"].items()
        if each["type"] == "aws:cloudformation:stack"
    }
    assert protected == dict.fromkeys((LOGGING, DATA, SERVICE), True)
