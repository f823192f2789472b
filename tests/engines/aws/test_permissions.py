"""Permissions on DynamoDB: what a decision rests on is in its transaction, and whatever it meets it is one decision."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from botocore.stub import Stubber

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import BACK_END, identity, refusal_of
from tests.engines.aws.containers import cut, item_of, meanwhile, tap
from tocsin.tables import Permissions, Tombstone

pytestmark = pytest.mark.slow
ALICE, BOB = identity("alice"), identity("bob")


@pytest.fixture
def permissions(bare: AwsHarness) -> Permissions:
    return bare.engine.permissions


def owners(harness: AwsHarness) -> str | None:
    return item_of(harness, "UserChatPermissions", userId="#owners", chatId="c1").get("owners")


def keys(call: dict[str, Any]) -> list[tuple[str, str]]:
    """Operation and user of each item of a transaction."""
    found = []
    for item in call["TransactItems"]:
        ((operation, what),) = item.items()
        found.append((operation, (what.get("Key") or what["Item"])["userId"]["S"]))
    return found


async def test_a_transaction_names_target_actor_and_owners_and_no_item_twice(
    bare: AwsHarness, permissions: Permissions
) -> None:
    """DynamoDB refuses a transaction that names an item twice."""
    await permissions.grant(BACK_END, "alice", "c1", "owner", 1)
    sent = tap(bare.aws.dynamodb, "TransactWriteItems")
    await permissions.grant(ALICE, "bob", "c1", "owner", 2)
    await permissions.grant(ALICE, "carol", "c1", "member", 3)
    await permissions.grant(ALICE, "alice", "c1", "admin", 4)
    await permissions.revoke(ALICE, "alice", "c1", 5)
    assert list(map(keys, sent)) == [
        [("Put", "bob"), ("ConditionCheck", "alice"), ("Update", "#owners")],
        [("Put", "carol"), ("ConditionCheck", "alice")],
        [("Put", "alice"), ("Update", "#owners")],
        [("Update", "alice")],
    ]
    assert owners(bare) == "1"


def change_role(harness: AwsHarness, user_id: str, role: str | None) -> Callable[[], object]:
    """Somebody else's decision; the count of owners is not looked at."""
    table = harness.stage.tables["UserChatPermissions"]
    key: Any = {"userId": {"S": user_id}, "chatId": {"S": "c1"}}
    names = {"#role": "role"}
    dynamodb = harness.stage.services.dynamodb
    if role is None:
        return lambda: dynamodb.update_item(
            TableName=table, Key=key, UpdateExpression="REMOVE #role", ExpressionAttributeNames=names
        )
    return lambda: dynamodb.update_item(
        TableName=table,
        Key=key,
        UpdateExpression="SET #role = :role",
        ExpressionAttributeNames=names,
        ExpressionAttributeValues={":role": {"S": role}},
    )


async def test_who_loses_his_role_while_he_grants_is_refused(bare: AwsHarness, permissions: Permissions) -> None:
    await permissions.grant(BACK_END, "alice", "c1", "owner", 1)
    await permissions.grant(BACK_END, "bob", "c1", "admin", 1)
    meanwhile(bare.aws.dynamodb, "TransactWriteItems", change_role(bare, "bob", None))
    assert await refusal_of(permissions.grant(BOB, "carol", "c1", "member", 2)) == "forbidden"
    assert await permissions.roles([("carol", "c1")]) == [None]


async def test_a_target_that_rises_above_one_meanwhile_is_not_touched(
    bare: AwsHarness, permissions: Permissions
) -> None:
    for user, role in (("alice", "owner"), ("bob", "admin"), ("carol", "member")):
        await permissions.grant(BACK_END, user, "c1", role, 1)  # type: ignore[arg-type]
    meanwhile(bare.aws.dynamodb, "TransactWriteItems", change_role(bare, "carol", "owner"))
    assert await refusal_of(permissions.revoke(BOB, "carol", "c1", 2)) == "forbidden"
    assert await permissions.roles([("carol", "c1")]) == ["owner"]


async def test_a_decision_whose_answer_was_lost_is_found_done(bare: AwsHarness, permissions: Permissions) -> None:
    run = bare.clock.run
    cut(bare.aws.dynamodb, "TransactWriteItems")
    row = await run(permissions.grant(BACK_END, "alice", "c1", "owner", 1))
    assert (row.role, row.granted_at, owners(bare)) == ("owner", 1, "1")
    await permissions.grant(BACK_END, "bob", "c1", "owner", 1)
    cut(bare.aws.dynamodb, "TransactWriteItems")
    assert await run(permissions.revoke(ALICE, "alice", "c1", 2)) == Tombstone(fence=None)
    cut(bare.aws.dynamodb, "UpdateItem")
    assert await run(permissions.fence("alice", "c1", 7)) == 7
    assert owners(bare) == "1"


async def test_owners_are_counted_right_by_whoever_decides_at_once(bare: AwsHarness, permissions: Permissions) -> None:
    users = [f"user{number}" for number in range(6)]
    for user in users:
        await permissions.grant(BACK_END, user, "c1", "owner", 1)
    decisions = [permissions.grant(identity(user), user, "c1", "reader", 2) for user in users]
    outcomes = await bare.clock.run(asyncio.gather(*decisions, return_exceptions=True))
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert [getattr(refusal, "code", refusal) for refusal in refused] == ["last_owner"]
    roles = await permissions.roles([(user, "c1") for user in users])
    assert (roles.count("owner"), owners(bare)) == (1, "1")


async def test_the_count_of_owners_is_in_no_list(bare: AwsHarness, permissions: Permissions) -> None:
    for user in ("+", "alice", "~"):
        await permissions.grant(BACK_END, user, "c1", "owner", 1)
    page = await permissions.of_chat("c1", after=None, limit=10)
    assert [row.user_id for row in page.permissions] == ["+", "alice", "~"]


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
async def test_a_decision_that_met_another_transaction_is_tried_again(
    bare: AwsHarness, permissions: Permissions, reason: str
) -> None:
    with Stubber(bare.aws.dynamodb.client) as stubber:
        fields = {"CancellationReasons": [{"Code": "None"}, {"Code": reason}]}
        stubber.add_client_error("transact_get_items", "TransactionCanceledException", modeled_fields=fields)
        stubber.add_response("transact_get_items", {"Responses": [{}, {}, {}]})
        stubber.add_client_error("transact_write_items", "TransactionCanceledException", modeled_fields=fields)
        stubber.add_response("transact_write_items", {})
        row = await bare.clock.run(permissions.grant(BACK_END, "alice", "c1", "owner", 1))
        stubber.assert_no_pending_responses()
    assert row.role == "owner"


async def test_a_conflict_beside_a_condition_that_failed_is_decided_anew(
    bare: AwsHarness, permissions: Permissions
) -> None:
    with Stubber(bare.aws.dynamodb.client) as stubber:
        fields = {"CancellationReasons": [{"Code": "ConditionalCheckFailed"}, {"Code": "TransactionConflict"}]}
        stubber.add_response("transact_get_items", {"Responses": [{}, {}, {}]})
        stubber.add_client_error("transact_write_items", "TransactionCanceledException", modeled_fields=fields)
        stubber.add_response("transact_get_items", {"Responses": [{}, {}, {}]})
        stubber.add_response("transact_write_items", {})
        await bare.clock.run(permissions.grant(BACK_END, "alice", "c1", "owner", 1))
        stubber.assert_no_pending_responses()


async def test_roles_that_dynamodb_had_no_room_for_are_asked_for_again(
    bare: AwsHarness, permissions: Permissions
) -> None:
    table = bare.stage.tables["UserChatPermissions"]
    key: Any = {"userId": {"S": "alice"}, "chatId": {"S": "c1"}}
    with Stubber(bare.aws.dynamodb.client) as stubber:
        stubber.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": {table: {"Keys": [key]}}})
        stubber.add_response(
            "batch_get_item", {"Responses": {table: [{**key, "role": {"S": "member"}}]}, "UnprocessedKeys": {}}
        )
        assert await bare.clock.run(permissions.roles([("alice", "c1")])) == ["member"]
