"""Settings: a function is told what it needs, and one that lacks something says what."""

import msgspec
import pytest

from tocsin.engines.aws import apigateway_clients, dynamodb_connections, message_rows, sns_bus
from tocsin.engines.aws.schema import TABLES
from tocsin.engines.aws.settings import ENVIRONMENT, FUNCTIONS, AwsSettings, EnvironmentFault, Function

EVERYTHING = {variable.name: f"the {variable.name}" for variable in ENVIRONMENT} | {"RETENTION_DAYS": "7"}
SEED: dict[Function, set[str]] = {
    "p2pWebSocketPublisher": {"FIFO_TOPIC_ARN", "STANDARD_TOPIC_ARN"},
    "a2pHttpPublisher": {"FIFO_TOPIC_ARN", "STANDARD_TOPIC_ARN", "PERMISSIONS_TABLE"},
    "processor": {"CONNECTION_TABLE", "SEQUENCE_TABLE", "WS_API_ENDPOINT"},
    "message-storage": {"MESSAGE_STORAGE_TABLE"},
    "message-retrieval": {"MESSAGE_STORAGE_TABLE", "PERMISSIONS_TABLE"},
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_variable_that_is_missing_is_named(function: Function) -> None:
    needed = {one.name for one in ENVIRONMENT if function in one.functions and one.default is None}
    for name in needed:
        with pytest.raises(EnvironmentFault, match=f"{function} lacks {name} in"):
            AwsSettings.read(function, {key: value for key, value in EVERYTHING.items() if key != name})
        with pytest.raises(EnvironmentFault, match=name):
            AwsSettings.read(function, EVERYTHING | {name: ""})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_has_what_it_needs_and_nothing_else(function: Function) -> None:
    settings = msgspec.structs.asdict(AwsSettings.read(function, EVERYTHING))
    for variable in ENVIRONMENT:
        if variable.name == "RETENTION_DAYS":
            continue
        value = settings[variable.name.lower()]
        given = EVERYTHING[variable.name]
        assert (value in (given, (given,))) is (function in variable.functions)


@pytest.mark.parametrize("function", SEED)
def test_what_the_seed_gives_a_function_it_still_gets(function: Function) -> None:
    assert {one.name for one in ENVIRONMENT if function in one.functions} >= SEED[function]


def test_what_may_be_left_out_has_a_default() -> None:
    needed = {
        name: value for name, value in EVERYTHING.items() if name.endswith(("_TABLE", "_URL", "_ARN", "_ENDPOINT"))
    } | {"ISSUER": "https://issuer.example.com", "AUDIENCE": "web"}
    settings = AwsSettings.read("processor", needed)
    assert (settings.retention, settings.metrics_namespace) == (30 * 86_400_000, "Tocsin")
    retrieval = AwsSettings.read(
        "message-retrieval", needed | {"ALLOWED_ORIGINS": " https://a.example , https://b.example"}
    )
    assert retrieval.allowed_origins == ("https://a.example", "https://b.example")
    assert retrieval.scope_prefix == "tocsin/"


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "a week", "³"])
def test_days_that_are_none_are_refused(days: str) -> None:
    with pytest.raises(EnvironmentFault, match="RETENTION_DAYS"):
        AwsSettings.read("processor", EVERYTHING | {"RETENTION_DAYS": days})


def test_every_table_has_its_variable_and_every_variable_its_field() -> None:
    names = {variable.name for variable in ENVIRONMENT}
    assert {table.variable for table in TABLES} == {name for name in names if name.endswith("_TABLE")}
    fields = {field.name.upper() for field in msgspec.structs.fields(AwsSettings)}
    assert names - {"RETENTION_DAYS"} <= fields


def test_the_figures_of_the_contracts_are_these() -> None:
    """Other tests import them, and would follow any change."""
    assert apigateway_clients.FAN_OUT_SECONDS == apigateway_clients.SEND_SECONDS == 10
    assert apigateway_clients.YOUNG_MILLISECONDS == 60_000
    assert (apigateway_clients.FAILURES, dynamodb_connections.ROUNDS) == (2, 5)
    assert (dynamodb_connections.WARNING_MILLISECONDS, message_rows.NEWEST, sns_bus.MARGIN) == (120_000, 200, 2)
