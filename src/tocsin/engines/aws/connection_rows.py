"""ConnectionTable's rows: who is connected, until when his token is good, and to which chats he listens.

    dynamodb_connections -> ConnectionRows -> the table

A row: connectionId, userId, chatId? (the first of all), chatIds?, connectedAt, expiresAt, scopes, limitedTo? (a
ticket's), warnedFor? (the token's end for which it was warned), sourceIp, userAgent, ttl.

Rule: `chatIds` changes in the transaction that begins or ends a subscription, so that whoever deletes the row knows
      what else there is to delete.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from tocsin.clients import Connection
from tocsin.clock import Clock
from tocsin.engines.aws.calls import CONDITION_FAILED, Calls, code_of
from tocsin.engines.aws.rows import Row, get_many, get_one, number, text
from tocsin.engines.aws.subscription_rows import end_of_life
from tocsin.identity import Identity

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef, TransactWriteItemTypeDef


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A row."""

    connection: Connection
    chat_ids: frozenset[str]
    warned_for: int


class ConnectionRows:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str, clock: Clock) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._clock = clock

    async def get(self, connection_id: str) -> Entry | None:
        item = await get_one(self._dynamodb, self._table, _key(connection_id))
        return _read(item) if item and self._counts(item) else None

    async def get_many(self, connection_ids: Collection[str]) -> list[Entry]:
        """Those that there are."""
        items = await get_many(self._dynamodb, self._table, [_key(connection_id) for connection_id in connection_ids])
        return [_read(item) for item in items if self._counts(item)]

    def _counts(self, item: Row) -> bool:
        return int(item["ttl"]["N"]) > self._clock.now() // 1000

    async def put(self, connection: Connection) -> None:
        item: dict[str, AttributeValueTypeDef] = {
            **_key(connection.connection_id),
            "connectedAt": number(connection.connected_at),
            "ttl": number(end_of_life(connection.connected_at)),
            "sourceIp": text(connection.source_ip),
            "userAgent": text(connection.user_agent),
            **_of_identity(connection.identity),
        }
        await self._dynamodb(lambda client: client.put_item(TableName=self._table, Item=item))

    async def refresh(self, connection_id: str, identity: Identity) -> None:
        """Without effect where there is none."""
        changes = _of_identity(identity)
        await self._update(
            connection_id,
            "SET " + ", ".join(f"#{name} = :{name}" for name in changes),
            {f":{name}": value for name, value in changes.items()},
            condition="attribute_exists(connectionId)",
            names={f"#{name}": name for name in changes},
        )

    async def warn(self, entry: Entry) -> bool:
        """Whether it had not been warned of this token's end."""
        return await self._update(
            entry.connection.connection_id,
            "SET warnedFor = :ends",
            {":ends": number(entry.connection.identity.expires_at)},
            condition="expiresAt = :ends AND (attribute_not_exists(warnedFor) OR warnedFor <> :ends)",
        )

    async def delete(self, connection_id: str) -> Entry | None:
        """As it was."""
        found = await self._dynamodb(
            lambda client: client.delete_item(TableName=self._table, Key=_key(connection_id), ReturnValues="ALL_OLD")
        )
        item = found.get("Attributes")
        return _read(item) if item else None

    async def _update(
        self,
        connection_id: str,
        update: str,
        values: "Mapping[str, AttributeValueTypeDef]",
        *,
        condition: str,
        names: Mapping[str, str] | None = None,
    ) -> bool:
        """Whether the condition held."""
        optional: dict[str, Any] = {} if names is None else {"ExpressionAttributeNames": names}
        try:
            await self._dynamodb(
                lambda client: client.update_item(
                    TableName=self._table,
                    Key=_key(connection_id),
                    UpdateExpression=update,
                    ConditionExpression=condition,
                    ExpressionAttributeValues=values,
                    **optional,
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise
            return False
        return True

    # -- parts of transactions -----------------------------------------------------------------------------------------

    def joining(self, connection_id: str, chat_ids: Collection[str], *, room: int) -> "TransactWriteItemTypeDef":
        """It is open, and listens to `room` chats at most: then to these, too."""
        return {
            "Update": {
                "TableName": self._table,
                "Key": _key(connection_id),
                "UpdateExpression": "SET chatId = if_not_exists(chatId, :first) ADD chatIds :chats",
                "ConditionExpression": "attribute_exists(connectionId)"
                " AND (attribute_not_exists(chatIds) OR size(chatIds) <= :room)",
                "ExpressionAttributeValues": {
                    ":first": text(next(iter(chat_ids))),
                    ":chats": {"SS": list(chat_ids)},
                    ":room": number(room),
                },
            }
        }

    def leaving(self, connection_id: str, chat_id: str) -> "TransactWriteItemTypeDef":
        """It is open: then it listens to this chat no more."""
        return {
            "Update": {
                "TableName": self._table,
                "Key": _key(connection_id),
                "UpdateExpression": "DELETE chatIds :chat",
                "ConditionExpression": "attribute_exists(connectionId)",
                "ExpressionAttributeValues": {":chat": {"SS": [chat_id]}},
            }
        }


def _key(connection_id: str) -> "dict[str, AttributeValueTypeDef]":
    return {"connectionId": text(connection_id)}


def _of_identity(identity: Identity) -> "dict[str, AttributeValueTypeDef]":
    item: dict[str, AttributeValueTypeDef] = {
        "userId": text(identity.user_id),
        "scopes": {"L": [text(scope) for scope in sorted(identity.scopes)]},
        "expiresAt": number(identity.expires_at),
    }
    if identity.chat_ids is not None:
        item["limitedTo"] = {"L": [text(chat_id) for chat_id in sorted(identity.chat_ids)]}
    return item


def _read(item: Row) -> Entry:
    connected_at = int(item["connectedAt"]["N"])
    limit = item.get("limitedTo")
    identity = Identity(
        user_id=item["userId"]["S"],
        scopes=frozenset(scope["S"] for scope in item["scopes"]["L"]),
        expires_at=int(item["expiresAt"]["N"]),
        chat_ids=None if limit is None else frozenset(chat_id["S"] for chat_id in limit["L"]),
    )
    return Entry(
        connection=Connection(
            connection_id=item["connectionId"]["S"],
            identity=identity,
            source_ip=item["sourceIp"]["S"],
            user_agent=item["userAgent"]["S"],
            connected_at=connected_at,
            last_active_at=connected_at,
        ),
        chat_ids=frozenset(item["chatIds"]["SS"]) if "chatIds" in item else frozenset(),
        warned_for=int(item["warnedFor"]["N"]) if "warnedFor" in item else 0,
    )
