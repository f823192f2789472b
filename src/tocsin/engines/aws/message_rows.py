"""MessageStorageTable's rows: a message and its row, and the ways in which rows are read.

    dynamodb_numbers (number and row in one transaction), dynamodb_messages (stores, reads) -> MessageRows -> the table

A row: chatId, timestamp (`2026-01-01T00:00:00.000Z#<messageId>`), messageType, targetChannel, senderId, payload,
messageDeduplicationId?, numbered? (it has a number or will have one), sequenceNumber?, ttl.

Rules:
- storing and numbering come in either order and make one row: each sets what is not there yet, and only numbering
  touches the number and the ttl of what has one;
- a row that waits for its number is not shown: shown without it, it would change under its readers;
- SequenceIndex lags. What it does not have yet is near the head, among the newest rows of the table.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tocsin.engines.aws.bus_format import publication_of
from tocsin.engines.aws.calls import Calls
from tocsin.engines.aws.rows import Row, get_many, number, text
from tocsin.engines.aws.schema import SEQUENCE_INDEX
from tocsin.failpoints import FailpointError, Failpoints
from tocsin.message import Message, MessageType, Publication, rfc3339, timestamp_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef, QueryInputTypeDef, QueryOutputTypeDef

#: So many of a chat's newest rows are looked through for a number that the index does not have yet.
NEWEST: Final = 200


def sort_key(message_id: str) -> str:
    """An id has one moment, so a message has one place."""
    return f"{rfc3339(timestamp_of(message_id)).decode()}#{message_id}"


def key_of(message: Message) -> "dict[str, AttributeValueTypeDef]":
    return {"chatId": text(message.chat_id), "timestamp": text(sort_key(message.message_id))}


def number_of(row: Row) -> int | None:
    return int(row["sequenceNumber"]["N"]) if "sequenceNumber" in row else None


def expiry_of(row: Row) -> int:
    """In seconds, as DynamoDB has it."""
    return int(row["ttl"]["N"])


def is_kept(expiry: int, now: int) -> bool:
    """Whether what expires then is still there; `now` in milliseconds."""
    return expiry > now // 1000


def render(row: Row) -> bytes:
    """The message as history gives it."""
    message_id = row["timestamp"]["S"].partition("#")[2]
    message_type: MessageType = row["messageType"]["S"]
    return Publication(
        message_id=message_id,
        timestamp=timestamp_of(message_id),
        sender_id=row["senderId"]["S"],
        chat_id=row["chatId"]["S"],
        target_channel=row["targetChannel"]["S"],
        message_type=message_type,
        payload=row["payload"]["S"].encode(),
        deduplication_id=row["messageDeduplicationId"]["S"] if "messageDeduplicationId" in row else None,
    ).render(number_of(row))


class RowUpdate:
    """What storing and numbering set alike, each attribute if it is not there; what else is set comes in `changes`."""

    def __init__(self, message: Message, changes: "Mapping[str, AttributeValueTypeDef]") -> None:
        publication = publication_of(message)
        given: dict[str, AttributeValueTypeDef] = {
            "messageType": text(publication.message_type),
            "targetChannel": text(publication.target_channel),
            "senderId": text(publication.sender_id),
            "payload": text(publication.payload.decode()),
        }
        if publication.deduplication_id is not None:
            given["messageDeduplicationId"] = text(publication.deduplication_id)
        if publication.numbered:
            given["numbered"] = {"BOOL": True}
        lasting = {name: value for name, value in given.items() if name not in changes}
        self.expression: Final = "SET " + ", ".join(
            [f"#{name} = if_not_exists(#{name}, :{name})" for name in lasting]
            + [f"#{name} = :{name}" for name in changes]
        )
        self.names: Final = {f"#{name}": name for name in (*lasting, *changes)}
        self.values: Final = {f":{name}": value for name, value in (*lasting.items(), *changes.items())}


class MessageRows:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str, retention: int, failpoints: Failpoints) -> None:
        """`retention` in milliseconds."""
        self._dynamodb = dynamodb
        self.table: Final = table
        self._retention = retention
        self._failpoints = failpoints

    def expiry(self, message: Message) -> int:
        """In seconds; rounded up, so that nothing goes before its time."""
        return -(-(message.timestamp + self._retention) // 1000)

    async def by_index(self, chat_id: str, first: int, last: int, limit: int) -> list[Row]:
        """Rows with these numbers, ascending, as far as the index has them; up to a page of DynamoDB's (1 MB)."""
        try:
            await self._failpoints.reach("index.lag")
        except FailpointError:
            return []  # as if it had nothing yet
        found = await self.query(
            {
                "TableName": self.table,
                "IndexName": SEQUENCE_INDEX,
                "KeyConditionExpression": "chatId = :chat AND sequenceNumber BETWEEN :first AND :last",
                "ExpressionAttributeValues": {
                    ":chat": text(chat_id),
                    ":first": number(first),
                    ":last": number(last),
                },
                "Limit": limit,
            }
        )
        return found["Items"]

    async def newest(self, chat_id: str) -> list[Row]:
        """Those of the chat's NEWEST rows that have a number, from the table itself."""
        rows: list[Row] = []
        left = NEWEST
        wanted: QueryInputTypeDef = {
            "TableName": self.table,
            "KeyConditionExpression": "chatId = :chat",
            "FilterExpression": "attribute_exists(sequenceNumber)",
            "ExpressionAttributeValues": {":chat": text(chat_id)},
            "ScanIndexForward": False,
            "ConsistentRead": True,
        }
        while left > 0:
            found = await self.query({**wanted, "Limit": left})
            rows += found["Items"]
            left -= found["ScannedCount"]
            if "LastEvaluatedKey" not in found:
                break
            wanted["ExclusiveStartKey"] = found["LastEvaluatedKey"]
        return rows

    async def query(self, wanted: "QueryInputTypeDef") -> "QueryOutputTypeDef":
        return await self._dynamodb(lambda client: client.query(**wanted))

    async def numbers(self, messages: Sequence[Message]) -> dict[str, int]:
        """messageId -> number, of those that have one."""
        keys = {message.message_id: key_of(message) for message in messages}
        found = await get_many(self._dynamodb, self.table, list(keys.values()))
        pairs = [(row["timestamp"]["S"].partition("#")[2], number_of(row)) for row in found]
        return {message_id: sequence for message_id, sequence in pairs if sequence is not None}
