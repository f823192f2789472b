"""Messages on DynamoDB: stored next to their numbers, read by number and by time.

    message_storage -> store                message_retrieval, connection_handler -> by_number, by_time

Rules:
- by number a page is complete or refused: what the index lacks is looked for in the table, twice, and then it is 503;
- by time a page is read from the table, consistently: what anyone has heard is there;
- DynamoDB deletes (TTL), days late; no read shows what is past its time;
- a page ends at PAGE_BYTES: an answer of Lambda's holds 6 MB.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tocsin.clock import Clock
from tocsin.engines.aws.calls import RETRY_AFTER, Calls
from tocsin.engines.aws.dynamodb_numbers import DynamodbNumbers
from tocsin.engines.aws.message_rows import (
    MessageRows,
    RowUpdate,
    expiry_of,
    is_kept,
    key_of,
    number_of,
    render,
)
from tocsin.engines.aws.rows import Row, number, text
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.message import Message, rfc3339
from tocsin.tables import Page

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef, QueryInputTypeDef

PAGE_BYTES: Final = 4 * 1024 * 1024
#: How often index and table are looked through for a number.
ROUNDS: Final = 2
#: Before and behind every sort key, and (the last) behind every one of a millisecond.
_FIRST: Final = "!"
_LAST: Final = "~"


class DynamodbMessages:
    def __init__(
        self,
        *,
        dynamodb: "Calls[DynamoDBClient]",
        rows: MessageRows,
        numbers: DynamodbNumbers,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._dynamodb = dynamodb
        self._rows = rows
        self._numbers = numbers
        self._clock = clock
        self._failpoints = failpoints

    async def store(self, messages: Sequence[Message]) -> None:
        failures = await asyncio.gather(*[self._store(message) for message in messages], return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure

    async def _store(self, message: Message) -> None:
        row = RowUpdate(message, {})
        await self._dynamodb(
            lambda client: client.update_item(
                TableName=self._rows.table,
                Key=key_of(message),
                UpdateExpression=f"{row.expression}, #ttl = if_not_exists(#ttl, :ttl)",
                ExpressionAttributeNames={**row.names, "#ttl": "ttl"},
                ExpressionAttributeValues={**row.values, ":ttl": number(self._rows.expiry(message))},
            )
        )
        await self._failpoints.reach("storage.mid_move", [message])

    async def expire(self, now: int, limit: int) -> int:
        """None: DynamoDB deletes by itself (strength `deletes_on_demand`)."""
        return 0

    # -- by number -----------------------------------------------------------------------------------------------------

    async def by_number(self, chat_id: str, first: int, last: int, limit: int) -> Page:
        head = (await self._numbers.heads([chat_id]))[chat_id]
        first, last = max(first, head.oldest), min(last, head.sequence)
        end = min(last, first + limit - 1)
        if first > end:
            return Page(bodies=(), next=None)
        rows, end = await self._numbered(chat_id, first, end)
        now = self._clock.now()
        kept = [rows[sequence] for sequence in range(first, end + 1)]
        bodies = [render(row) for row in kept if is_kept(expiry_of(row), now)]  # the first may have just expired
        return Page(bodies=bodies, next=str(end + 1) if end < last else None)

    async def _numbered(self, chat_id: str, first: int, last: int) -> tuple[dict[int, Row], int]:
        """Every number from `first` to where the page ends, at most `last`."""
        rows: dict[int, Row] = {}
        for _ in range(ROUNDS):
            last = await self._from_index(chat_id, first, last, rows)
            if len(rows) < last - first + 1:
                for row in await self._rows.newest(chat_id):
                    _take(rows, row, first, last)
            if len(rows) == last - first + 1:
                return rows, last
        raise Refusal(
            "unavailable",
            "The chat's newest messages are being stored; try again.",
            chat_id=chat_id,
            retry_after=RETRY_AFTER,
        )

    async def _from_index(self, chat_id: str, first: int, last: int, rows: dict[int, Row]) -> int:
        """Takes what the index has; the last number that the page has room for."""
        size, at = 0, first
        while at <= last:
            found = await self._rows.by_index(chat_id, at, last, last - at + 1)
            for row in found:
                size += len(row["payload"]["S"].encode())
                if size > PAGE_BYTES and rows:
                    return at - 1
                at = _take(rows, row, first, last) + 1
            if not found:
                break
        return last

    # -- by time -------------------------------------------------------------------------------------------------------

    async def by_time(
        self, chat_id: str, first: int | None, last: int | None, *, ascending: bool, after: str | None, limit: int
    ) -> Page:
        if first is not None and last is not None and first > last:
            return Page(bodies=(), next=None)
        values: dict[str, AttributeValueTypeDef] = {
            ":chat": text(chat_id),
            ":low": text(_FIRST if first is None else rfc3339(first).decode()),
            ":high": text(_LAST if last is None else rfc3339(last).decode() + _LAST),
            ":now": number(self._clock.now() // 1000),
        }
        wanted: QueryInputTypeDef = {
            "TableName": self._rows.table,
            "KeyConditionExpression": "chatId = :chat AND #timestamp BETWEEN :low AND :high",
            "FilterExpression": "#ttl > :now AND (attribute_exists(sequenceNumber) OR attribute_not_exists(numbered))",
            "ExpressionAttributeNames": {"#timestamp": "timestamp", "#ttl": "ttl"},
            "ExpressionAttributeValues": values,
            "ScanIndexForward": ascending,
            "ConsistentRead": True,
        }
        if after is not None:
            wanted["ExclusiveStartKey"] = {"chatId": text(chat_id), "timestamp": text(after)}
        bodies: list[bytes] = []
        size, place = 0, None
        while True:
            found = await self._rows.query({**wanted, "Limit": limit + 1 - len(bodies)})
            for row in found["Items"]:
                body = render(row)
                size += len(body)
                if len(bodies) == limit or (bodies and size > PAGE_BYTES):
                    return Page(bodies=bodies, next=place)
                bodies.append(body)
                place = row["timestamp"]["S"]
            if "LastEvaluatedKey" not in found:
                return Page(bodies=bodies, next=None)
            wanted["ExclusiveStartKey"] = found["LastEvaluatedKey"]


def _take(rows: dict[int, Row], row: Row, first: int, last: int) -> int:
    """Its number."""
    sequence = number_of(row)
    assert sequence is not None
    if first <= sequence <= last:
        rows[sequence] = row
    return sequence
