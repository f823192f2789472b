"""Rows by the minute, in SubscriptionTable: what the minute's job has to look at.

    dynamodb_connections -> `#expires#<minute>#<0-7>`, connectionId     (whose token ends in that minute)
    gaps -> `#missed#<minute>`, `<connectionId>#<chatId>`               (who missed something in it)
    engine -> `#whole`, `minute`                                        (the last minute whose job came to its end)

Rules:
- such a row is a hint and decides nothing: whoever reads it reads the row that it means;
- so it is written before what it means, and one that means nothing any more does no harm;
- the job looks at every minute since it last came to its end: a pause of any length leaves out nothing that lives;
- `#` is in no chatId, so no chat has such a partition.
"""

from typing import TYPE_CHECKING, Final
from zlib import crc32

from tocsin.engines.aws.calls import Calls
from tocsin.engines.aws.rows import get_one, number, text
from tocsin.engines.aws.subscription_rows import LIFE_SECONDS, key_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryInputTypeDef

MINUTE: Final = 60_000
#: One minute's connections are spread over so many partitions: everything connected together ends together.
SHARDS: Final = 8
_WHOLE: Final = key_of("#whole", "#")


class MinuteRows:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    async def put(self, bucket: str, minute: int, name: str) -> None:
        ttl = number(minute * 60 + LIFE_SECONDS)  # then none that it may mean lives
        await self._dynamodb(
            lambda client: client.put_item(TableName=self._table, Item={**key_of(bucket, name), "ttl": ttl})
        )

    async def names(self, bucket: str) -> list[str]:
        wanted: QueryInputTypeDef = {
            "TableName": self._table,
            "KeyConditionExpression": "chatId = :bucket",
            "ExpressionAttributeValues": {":bucket": text(bucket)},
            "ConsistentRead": True,
        }
        names: list[str] = []
        while True:
            found = await self._dynamodb(lambda client: client.query(**wanted))
            names += [item["connectionId"]["S"] for item in found["Items"]]
            if "LastEvaluatedKey" not in found:
                return names
            wanted["ExclusiveStartKey"] = found["LastEvaluatedKey"]

    async def due(self, now: int, usual: range) -> list[int]:
        """`usual`, counted from the present minute, and before it all since the job last came to its end."""
        present = minute_of(now)
        row = await get_one(self._dynamodb, self._table, _WHOLE)
        if not row:
            await self.whole(present)  # from here on a pause is known
        whole = int(row["minute"]["N"]) if row else present
        first = max(min(present + usual.start, whole), present - LIFE_SECONDS * 1000 // MINUTE)
        return list(range(first, present + usual.stop))

    async def whole(self, minute: int) -> None:
        """The job that began in this minute has done all that it is there for."""
        item = {**_WHOLE, "minute": number(minute)}
        await self._dynamodb(lambda client: client.put_item(TableName=self._table, Item=item))

    async def delete(self, bucket: str, name: str) -> None:
        await self._dynamodb(lambda client: client.delete_item(TableName=self._table, Key=key_of(bucket, name)))


def minute_of(moment: int) -> int:
    return moment // MINUTE


def expiry_bucket(minute: int, connection_id: str) -> str:
    return f"#expires#{minute}#{crc32(connection_id.encode()) % SHARDS}"


def expiry_buckets(minute: int) -> list[str]:
    return [f"#expires#{minute}#{shard}" for shard in range(SHARDS)]


def missed_bucket(minute: int) -> str:
    return f"#missed#{minute}"
