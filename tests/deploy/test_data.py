"""What outlives every deployment: tables, and the user pool with its clients and scopes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.aws.assembly import DATA, Assembly
from tests.deploy.conftest import PLAIN
from tests.deploy.views import variables
from tocsin.engines.aws import schema
from tocsin.identity import SCOPES

pytestmark = pytest.mark.slow


def test_the_audience_is_read_from_a_table_not_from_an_index(plain: Assembly) -> None:
    (table,) = [
        each for each in plain.of("AWS::DynamoDB::Table") if each.properties["TableName"] == "SubscriptionTable"
    ]
    assert [key["AttributeName"] for key in table.properties["KeySchema"]] == ["chatId", "connectionId"]
    assert "GlobalSecondaryIndexes" not in table.properties


def test_tables_and_user_pool_outlive_their_stack(plain: Assembly, dev: Assembly) -> None:
    for assembly in (plain, dev):
        kept = [each for each in assembly if each.stack == DATA]
        assert len(kept) == 11
        assert all(each.body["DeletionPolicy"] == each.body["UpdateReplacePolicy"] == "Retain" for each in kept)
        tables = assembly.of("AWS::DynamoDB::Table")
        assert all(each.properties["DeletionProtectionEnabled"] is True for each in tables)
        assert assembly.one("AWS::Cognito::UserPool").properties["DeletionProtection"] == "ACTIVE"
        assert not [each.id for each in assembly if each.stack != DATA and each.type.startswith("AWS::DynamoDB")]


def test_every_table_can_be_restored_and_forgets_by_itself(plain: Assembly) -> None:
    for table in plain.of("AWS::DynamoDB::Table"):
        recovery = table.properties["PointInTimeRecoverySpecification"]
        assert recovery["PointInTimeRecoveryEnabled"] is True
        assert table.properties["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}
        assert table.properties["SSESpecification"] == {"SSEEnabled": True}, "the seed's: keys that AWS manages"
        assert table.properties["BillingMode"] == "PAY_PER_REQUEST"


def test_scopes_are_of_our_resource_server_and_only_a_back_end_has_them(plain: Assembly) -> None:
    server = plain.one("AWS::Cognito::UserPoolResourceServer").properties
    assert server["Identifier"] == "tocsin"
    assert {scope["ScopeName"] for scope in server["Scopes"]} == SCOPES
    clients = {each.properties["ClientName"]: each.properties for each in plain.of("AWS::Cognito::UserPoolClient")}
    machine, web = clients["tocsin-machine"], clients["tocsin-web"]
    assert machine["AllowedOAuthFlows"] == ["client_credentials"]
    granted = {plain.text(scope) for scope in machine["AllowedOAuthScopes"]}
    assert {scope.rpartition("/")[2] for scope in granted} == SCOPES
    assert machine["GenerateSecret"] is True
    assert set(web["ExplicitAuthFlows"]) == {
        "ALLOW_USER_PASSWORD_AUTH",
        "ALLOW_USER_SRP_AUTH",
        "ALLOW_REFRESH_TOKEN_AUTH",
    }
    assert web["AllowedOAuthFlowsUserPoolClient"] is False
    assert not web.get("GenerateSecret", False)
    assert variables(plain, "SCOPE_PREFIX") == {"tocsin/"}


def test_a_token_lives_an_hour(plain: Assembly) -> None:
    for client in plain.of("AWS::Cognito::UserPoolClient"):
        assert client.properties["AccessTokenValidity"] == 60
        assert client.properties["TokenValidityUnits"]["AccessToken"] == "minutes"


def test_tokens_of_both_clients_count_and_nobody_elses(plain: Assembly) -> None:
    clients = {f"${{{each.id}}}" for each in plain.of("AWS::Cognito::UserPoolClient")}
    (audience,) = variables(plain, "AUDIENCE")
    pool = plain.one("AWS::Cognito::UserPool").id
    issuer = f"https://cognito-idp.${{Region}}.${{URLSuffix}}/${{{pool}}}"
    assert set(audience.split(",")) == clients
    assert variables(plain, "ISSUER") == {issuer}
    assert variables(plain, "JWKS_URL") == {f"{issuer}/.well-known/jwks.json"}


def test_restored_tables_are_served_and_watched_and_the_former_ones_stay(synthesize: Callable[..., Path]) -> None:
    assembly = Assembly.read(synthesize(*PLAIN, "--tables-prefix", "restored-"))
    tables = {table.name for table in schema.TABLES}
    assert {each.properties["TableName"] for each in assembly.of("AWS::DynamoDB::Table")} == tables
    for function in assembly.of("AWS::Lambda::Function"):
        variables = function.properties.get("Environment", {}).get("Variables", {})
        named = {variables[table.variable] for table in schema.TABLES if table.variable in variables}
        assert all(name.startswith("restored-") for name in named), function.id
    roles = json.dumps([each.properties for each in assembly.of("AWS::IAM::Role")]) + json.dumps(
        [each.properties for each in assembly.of("AWS::IAM::Policy")]
    )
    assert ":table/restored-" in roles
    assert not [name for name in tables if f":table/{name}" in roles]
    alarms = json.dumps([each.properties for each in assembly.of("AWS::CloudWatch::Alarm")])
    assert not [name for name in tables if f'"{name}"' in alarms]
