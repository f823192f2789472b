"""Permissions on DynamoDB: decided on what was read, written only if that still stands.

    publishing, websocket_authorizer, message_retrieval -> roles
    chat_permission -> grant, revoke -> read [target, actor, owners] -> rules (roles.py) -> one transaction

UserChatPermissions: userId, chatId, role?, grantedBy, grantedAt; a tombstone has no role, and its `fence` when the
revocation has gone through. `#owners`, chatId: how many owners the chat has.

Rules:
- a transaction names the role of everybody whom its decision looked at: the target's, and the actor's by a check. Where
  they are one item it has one condition, since DynamoDB takes no item twice;
- a condition that fails means that somebody else decided: all is read again, so what was done but never answered is
  found done;
- the count falls only while it is above one, in the same transaction: of two owners who leave at once one stays;
- `#` is in no userId and sorts before all of them, so the count is in no list.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from botocore.exceptions import ClientError

from tocsin.engines.aws.calls import CONDITION_FAILED, Calls, code_of, failed_conditions
from tocsin.engines.aws.rows import Row, get_many, number, text
from tocsin.engines.aws.schema import PERMISSIONS_TABLE
from tocsin.errors import Refusal
from tocsin.identity import Identity
from tocsin.roles import Role, check_grant, check_owners, check_revoke
from tocsin.tables import Permission, PermissionPage, Tombstone

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        AttributeValueTypeDef,
        QueryInputTypeDef,
        TransactGetItemTypeDef,
        TransactWriteItemTypeDef,
    )

OWNERS: Final = "#owners"
SERVICE: Final = "permissions:write"
_BY_CHAT: Final = PERMISSIONS_TABLE.indexes[0].name
#: Before every chatId; before every userId, and behind OWNERS.
_FIRST_CHAT: Final = "!"
_FIRST_USER: Final = "*"


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision looks at. `target` is empty where there never was a row."""

    acting: Role | None
    target: Row
    owners: int

    @property
    def before(self) -> Role | None:
        return _role(self.target)


class DynamodbPermissions:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    async def roles(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Role | None]:
        keys = [_key(*pair) for pair in dict.fromkeys(pairs)]
        found = await get_many(self._dynamodb, self._table, keys)
        roles = {(row["userId"]["S"], row["chatId"]["S"]): _role(row) for row in found}
        return [roles.get(pair) for pair in pairs]

    # -- decisions -----------------------------------------------------------------------------------------------------

    async def grant(self, actor: Identity, user_id: str, chat_id: str, role: Role, now: int) -> Permission:
        service = SERVICE in actor.scopes
        while True:
            found = await self._find(actor.user_id, user_id, chat_id)
            check_grant(found.acting, found.before, role, service=service)
            check_owners(found.before, role, found.owners)
            if found.before == role:
                return _permission(found.target)
            put: dict[str, Any] = {
                "Put": {
                    "TableName": self._table,
                    "Item": {
                        **_key(user_id, chat_id),
                        "role": text(role),
                        "grantedBy": text(actor.user_id),
                        "grantedAt": number(now),
                    },
                    **_if_role(found.before),
                }
            }
            if await self._decide(put, found, role, actor=None if service else actor, user_id=user_id, chat_id=chat_id):
                return Permission(user_id=user_id, chat_id=chat_id, role=role, granted_by=actor.user_id, granted_at=now)

    async def revoke(self, actor: Identity, user_id: str, chat_id: str, now: int) -> Tombstone:
        service, oneself = SERVICE in actor.scopes, actor.user_id == user_id
        while True:
            found = await self._find(actor.user_id, user_id, chat_id)
            check_revoke(found.acting, found.before, service=service, oneself=oneself)
            if not found.target:
                raise Refusal("not_found", "There is no such permission.")
            check_owners(found.before, None, found.owners)
            if found.before is None:
                return Tombstone(fence=int(found.target["fence"]["N"]) if "fence" in found.target else None)
            condition = _if_role(found.before)
            update: dict[str, Any] = {
                "Update": {
                    "TableName": self._table,
                    "Key": _key(user_id, chat_id),
                    "UpdateExpression": "SET revokedAt = :now REMOVE #role",
                    **condition,
                    "ExpressionAttributeValues": {**condition["ExpressionAttributeValues"], ":now": number(now)},
                }
            }
            if await self._decide(
                update, found, None, actor=None if service else actor, user_id=user_id, chat_id=chat_id
            ):
                return Tombstone(fence=None)

    async def _find(self, actor_id: str, user_id: str, chat_id: str) -> _Found:
        """All as of one moment."""
        users = tuple(dict.fromkeys((actor_id, user_id, OWNERS)))
        wanted: list[TransactGetItemTypeDef] = [
            {"Get": {"TableName": self._table, "Key": _key(user, chat_id)}} for user in users
        ]
        found = await self._dynamodb(lambda client: client.transact_get_items(TransactItems=wanted))
        rows = {user: answer.get("Item", {}) for user, answer in zip(users, found["Responses"], strict=True)}
        owners = rows[OWNERS]
        return _Found(
            acting=_role(rows[actor_id]),
            target=rows[user_id],
            owners=int(owners["owners"]["N"]) if owners else 0,
        )

    async def _decide(
        self,
        write: Any,
        found: _Found,
        after: Role | None,
        *,
        actor: Identity | None,
        user_id: str,
        chat_id: str,
    ) -> bool:
        """False: something that the decision rests on has changed meanwhile. `actor` None: his role did not count."""
        items: list[TransactWriteItemTypeDef] = [write]
        if actor is not None and actor.user_id != user_id:
            check: Any = {"TableName": self._table, "Key": _key(actor.user_id, chat_id), **_if_role(found.acting)}
            items.append({"ConditionCheck": check})
        if more := int(after == "owner") - int(found.before == "owner"):
            items.append({"Update": self._count_owners(chat_id, more)})
        try:
            await self._dynamodb(lambda client: client.transact_write_items(TransactItems=items))
        except ClientError as error:
            if not any(failed_conditions(error)):
                raise
            return False
        return True

    def _count_owners(self, chat_id: str, more: int) -> Any:
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": _key(OWNERS, chat_id),
            "UpdateExpression": "ADD owners :more",
            "ExpressionAttributeValues": {":more": number(more)},
        }
        if more < 0:
            update["ConditionExpression"] = "owners > :one"
            update["ExpressionAttributeValues"][":one"] = number(1)
        return update

    async def fence(self, user_id: str, chat_id: str, sequence: int) -> int:
        try:
            found = await self._dynamodb(
                lambda client: client.update_item(
                    TableName=self._table,
                    Key=_key(user_id, chat_id),
                    UpdateExpression="SET fence = if_not_exists(fence, :fence)",
                    ConditionExpression="attribute_exists(userId) AND attribute_not_exists(#role)",
                    ExpressionAttributeNames={"#role": "role"},
                    ExpressionAttributeValues={":fence": number(sequence)},
                    ReturnValues="ALL_NEW",
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise
            return sequence  # granted again meanwhile
        return int(found["Attributes"]["fence"]["N"])

    # -- pages ---------------------------------------------------------------------------------------------------------

    async def of_user(self, user_id: str, *, after: str | None, limit: int) -> PermissionPage:
        wanted: QueryInputTypeDef = {
            "TableName": self._table,
            "KeyConditionExpression": "userId = :user AND chatId > :after",
            "ExpressionAttributeValues": {":user": text(user_id), ":after": text(after or _FIRST_CHAT)},
            "ConsistentRead": True,
        }
        rows = await self._page(wanted, limit)
        return PermissionPage(permissions=rows[:limit], next=rows[limit - 1].chat_id if len(rows) > limit else None)

    async def of_chat(self, chat_id: str, *, after: str | None, limit: int) -> PermissionPage:
        """A list for people: the index lags behind the table, and nothing is decided on it."""
        wanted: QueryInputTypeDef = {
            "TableName": self._table,
            "IndexName": _BY_CHAT,
            "KeyConditionExpression": "chatId = :chat AND userId > :after",
            "ExpressionAttributeValues": {":chat": text(chat_id), ":after": text(after or _FIRST_USER)},
        }
        rows = await self._page(wanted, limit)
        return PermissionPage(permissions=rows[:limit], next=rows[limit - 1].user_id if len(rows) > limit else None)

    async def _page(self, wanted: "QueryInputTypeDef", limit: int) -> list[Permission]:
        """One more than `limit`, if there are more. Tombstones are left out, so a page of DynamoDB's may be short."""
        rows: list[Permission] = []
        filtered: QueryInputTypeDef = {
            **wanted,
            "FilterExpression": "attribute_exists(#role)",
            "ExpressionAttributeNames": {"#role": "role"},
        }
        while len(rows) <= limit:
            asked: QueryInputTypeDef = {**filtered, "Limit": limit + 1 - len(rows)}
            found = await self._dynamodb(lambda client, asked=asked: client.query(**asked))  # type: ignore[misc]
            rows += map(_permission, found["Items"])
            if "LastEvaluatedKey" not in found:
                break
            filtered["ExclusiveStartKey"] = found["LastEvaluatedKey"]
        return rows


def _key(user_id: str, chat_id: str) -> "dict[str, AttributeValueTypeDef]":
    return {"userId": text(user_id), "chatId": text(chat_id)}


def _role(row: Row) -> Role | None:
    return row["role"]["S"] if "role" in row else None


def _if_role(role: Role | None) -> dict[str, Any]:
    """The condition that somebody's role is still this one."""
    if role is None:
        return {
            "ConditionExpression": "attribute_not_exists(#role)",
            "ExpressionAttributeNames": {"#role": "role"},
        }
    return {
        "ConditionExpression": "#role = :role",
        "ExpressionAttributeNames": {"#role": "role"},
        "ExpressionAttributeValues": {":role": text(role)},
    }


def _permission(row: Row) -> Permission:
    role = _role(row)
    assert role is not None
    return Permission(
        user_id=row["userId"]["S"],
        chat_id=row["chatId"]["S"],
        role=role,
        granted_by=row["grantedBy"]["S"],
        granted_at=int(row["grantedAt"]["N"]),
    )
