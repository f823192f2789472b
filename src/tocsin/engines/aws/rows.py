"""DynamoDB's rows, as its low-level client gives them; reading and deleting many of them by key.

Rule: what is read here is consistent; an index is read where it is asked for by name, and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tocsin.engines.aws.calls import Calls

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        AttributeValueTypeDef,
        BatchGetItemOutputTypeDef,
        BatchWriteItemOutputTypeDef,
    )

#: attribute -> {type: value}
Row = dict[str, Any]

#: What BatchGetItem takes.
_MOST_KEYS: Final = 100
#: What BatchWriteItem takes.
_MOST_WRITES: Final = 25


def text(value: str) -> "AttributeValueTypeDef":
    return {"S": value}


def number(value: int) -> "AttributeValueTypeDef":
    return {"N": str(value)}


async def get_one(dynamodb: "Calls[DynamoDBClient]", table: str, key: "Mapping[str, AttributeValueTypeDef]") -> Row:
    """Empty where there is none."""
    found = await dynamodb(lambda client: client.get_item(TableName=table, Key=key, ConsistentRead=True))
    return found.get("Item", {})


async def get_many(
    dynamodb: "Calls[DynamoDBClient]", table: str, keys: "Sequence[Mapping[str, AttributeValueTypeDef]]"
) -> list[Row]:
    """In any order, without those that are not there. No key may come twice."""
    rows: list[Row] = []
    for start in range(0, len(keys), _MOST_KEYS):
        left: Mapping[str, Any] = {table: {"Keys": keys[start : start + _MOST_KEYS], "ConsistentRead": True}}
        backoff = dynamodb.backoff()
        while True:
            found = await dynamodb(_batch_get(left))
            rows += found["Responses"].get(table, [])
            left = found["UnprocessedKeys"]
            if not left:
                break
            await backoff.pause()
    return rows


async def delete_many(
    dynamodb: "Calls[DynamoDBClient]", table: str, keys: "Sequence[Mapping[str, AttributeValueTypeDef]]"
) -> None:
    """Whatever stands there. No key may come twice."""
    for start in range(0, len(keys), _MOST_WRITES):
        wanted = keys[start : start + _MOST_WRITES]
        left: Mapping[str, Any] = {table: [{"DeleteRequest": {"Key": key}} for key in wanted]}
        backoff = dynamodb.backoff()
        while True:
            found = await dynamodb(_batch_write(left))
            left = found["UnprocessedItems"]
            if not left:
                break
            await backoff.pause()


def _batch_write(wanted: Mapping[str, Any]) -> "Callable[[DynamoDBClient], BatchWriteItemOutputTypeDef]":
    return lambda client: client.batch_write_item(RequestItems=wanted)


def _batch_get(wanted: Mapping[str, Any]) -> "Callable[[DynamoDBClient], BatchGetItemOutputTypeDef]":
    return lambda client: client.batch_get_item(RequestItems=wanted)
