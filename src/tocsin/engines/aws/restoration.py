"""Restoring: the tables as they were at one second, under new names, made fit to be served from.

    `tocsin aws restore` -> Restoration: copy -> (Mappings: off) -> ready -> repair -> (deploy with the new names)
    `tocsin aws resume` -> end_connections -> (Mappings: on)

Messages, roles and counters are DynamoDB's copies of that second (KEPT). Connections, subscriptions and claims begin
empty: what they said is about sockets and minutes that are past.

Rules:
- the tables that are served from are not touched, so that a restore can be thrown away;
- tables are restored each by itself. A counter that lags behind its messages is raised, and a number that it has given
  out and that no message has is filled: reads are complete or refuse, and would refuse for ever;
- the store gets a new epoch: who has heard more than the copy knows is told;
- a restored table has neither TTL nor backups nor protection before it is given them;
- each step may be done again: what stands already is left, and a copy of another moment is refused.
"""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from botocore.exceptions import ClientError

from tocsin.clock import Clock
from tocsin.engines.aws.calls import CONDITION_FAILED, Calls, code_of
from tocsin.engines.aws.message_rows import expiry_of, is_kept, number_of, sort_key
from tocsin.engines.aws.rows import Row, delete_many, number, text
from tocsin.engines.aws.schema import (
    CLAIM_TABLE,
    CONNECTION_TABLE,
    EPOCH,
    MESSAGE_STORAGE_TABLE,
    OLDEST,
    PERMISSIONS_TABLE,
    SEQUENCE_TABLE,
    SUBSCRIPTION_TABLE,
    TABLES,
    TTL,
    Key,
    Table,
)
from tocsin.errors import Refusal
from tocsin.message import WEBSOCKET, MessageIds, rfc3339

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEPT: Final = (MESSAGE_STORAGE_TABLE, PERMISSIONS_TABLE, SEQUENCE_TABLE)
EMPTY: Final = (CONNECTION_TABLE, SUBSCRIPTION_TABLE, CLAIM_TABLE)
#: The functions whose queues wait meanwhile.
CONSUMERS: Final = ("processor", "message-storage")
#: Who is said to have sent what fills a number.
NOBODY: Final = "#lost"
#: Seconds between two looks at what takes AWS its time.
_LOOK: Final = 5.0
_BUSY: Final = frozenset({"ContinuousBackupsUnavailableException", "ResourceInUseException", "LimitExceededException"})


class Repaired(msgspec.Struct):
    """What was found and mended: chats, counters that were raised, numbers that were filled."""

    epoch: str
    chats: int = 0
    raised: int = 0
    filled: int = 0


class _Highest(msgspec.Struct):
    """Of a chat's numbered rows; `expiry` that of the highest."""

    first: int
    last: int
    expiry: int


class Restoration:
    """`source` and `target`: what the names of the tables begin with, now and then."""

    def __init__(self, dynamodb: "Calls[DynamoDBClient]", source: str, target: str, clock: Clock) -> None:
        self._dynamodb = dynamodb
        self._source = source
        self._target = target
        self._clock = clock
        self._ids = MessageIds(secrets.randbits)

    async def copy(self, moment: int) -> None:
        """Begins it; `moment` in milliseconds. Refused where copies of another moment stand already."""
        when = datetime.fromtimestamp(moment // 1000, UTC)
        for table in KEPT:
            is_new = await self._unless_there(
                "restore_table_to_point_in_time",
                SourceTableName=self._source + table.name,
                TargetTableName=self._target + table.name,
                RestoreDateTime=when,
            )
            if not is_new:
                await self._check_moment(self._target + table.name, when)
        for table in EMPTY:
            await self._unless_there("create_table", **self._request(table))

    async def _check_moment(self, name: str, when: datetime) -> None:
        """As far as AWS says of which moment the table is."""
        summary = (await self._ask("describe_table", TableName=name))["Table"].get("RestoreSummary")
        if summary is not None and summary["RestoreDateTime"] != when:
            stands = rfc3339(round(summary["RestoreDateTime"].timestamp() * 1000)).decode()
            raise Refusal("invalid_argument", f"{name} is there already, as of {stands}.", field="--to")

    async def ready(self) -> None:
        """Returns when all are there, with all that a restore leaves out."""
        for table in TABLES:
            name = self._target + table.name
            while not await self._is_active(name):
                await self._clock.sleep(_LOOK)
            known = await self._ask("describe_time_to_live", TableName=name)
            if known["TimeToLiveDescription"]["TimeToLiveStatus"] not in ("ENABLED", "ENABLING"):
                wanted = {"Enabled": True, "AttributeName": TTL}
                await self._when_free("update_time_to_live", TableName=name, TimeToLiveSpecification=wanted)
            await self._when_free(
                "update_continuous_backups",
                TableName=name,
                PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
            )
            await self._when_free("update_table", TableName=name, DeletionProtectionEnabled=True)

    async def repair(self) -> Repaired:
        """Counters and messages agree; the epoch is new. Reads all of both tables."""
        counters = {
            row["scope"]["S"]: row
            async for row in self._rows(SEQUENCE_TABLE)
            if row["scope"]["S"] != EPOCH and not row["scope"]["S"].startswith(OLDEST)
        }
        highest = await self._highest()
        repaired = Repaired(epoch=secrets.token_hex(12))
        for chat_id in counters.keys() | highest.keys():
            repaired.chats += 1
            await self._agree(chat_id, counters.get(chat_id), highest.get(chat_id), repaired)
        item = {"scope": text(EPOCH), "epoch": text(repaired.epoch)}
        await self._ask("put_item", TableName=self._target + SEQUENCE_TABLE.name, Item=item)
        return repaired

    async def _highest(self) -> dict[str, _Highest]:
        found: dict[str, _Highest] = {}
        async for row in self._rows(MESSAGE_STORAGE_TABLE, "chatId, sequenceNumber, #ttl"):
            sequence = number_of(row)
            if sequence is None:
                continue
            one = found.setdefault(row["chatId"]["S"], _Highest(first=sequence, last=0, expiry=0))
            one.first = min(one.first, sequence)
            if sequence > one.last:
                one.last, one.expiry = sequence, expiry_of(row)
        return found

    async def _agree(self, chat_id: str, counter: Row | None, highest: _Highest | None, repaired: Repaired) -> None:
        drawn = 0 if counter is None else int(counter["sequence"]["N"])
        if highest is not None and highest.last > drawn:
            await self._raise(chat_id, highest, 0 if counter is None else int(counter["lastExpiry"]["N"]))
            repaired.raised += 1
        elif counter is not None:
            expiry = int(counter["lastExpiry"]["N"])
            first = int(counter["since"]["N"]) if highest is None else highest.last + 1
            if is_kept(expiry, self._clock.now()):  # else nobody is shown these numbers any more
                for sequence in range(first, drawn + 1):
                    await self._fill(chat_id, sequence, expiry)
                    repaired.filled += 1

    async def _raise(self, chat_id: str, highest: _Highest, expiry: int) -> None:
        """Once it is raised it may be served from, so it never falls."""
        try:
            await self._ask(
                "update_item",
                TableName=self._target + SEQUENCE_TABLE.name,
                Key={"scope": text(chat_id)},
                UpdateExpression="SET #sequence = :last, lastExpiry = :expiry, since = if_not_exists(since, :first)",
                ConditionExpression="attribute_not_exists(#sequence) OR #sequence < :last",
                ExpressionAttributeNames={"#sequence": "sequence"},
                ExpressionAttributeValues={
                    ":last": number(highest.last),
                    ":first": number(highest.first),
                    ":expiry": number(max(highest.expiry, expiry)),
                },
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise

    async def _fill(self, chat_id: str, sequence: int, expiry: int) -> None:
        message_id, _ = self._ids.draw(self._clock.now())
        payload = msgspec.json.encode({"chatId": chat_id, "eventType": "lost", "content": None}).decode()
        await self._ask(
            "put_item",
            TableName=self._target + MESSAGE_STORAGE_TABLE.name,
            Item={
                "chatId": text(chat_id),
                "timestamp": text(sort_key(message_id)),
                "messageType": text("fifo"),
                "targetChannel": text(WEBSOCKET),
                "senderId": text(NOBODY),
                "payload": text(payload),
                "numbered": {"BOOL": True},
                "sequenceNumber": number(sequence),
                "ttl": number(expiry),
            },
        )

    async def _rows(self, table: Table, projection: str | None = None) -> AsyncIterator[Row]:
        asked: dict[str, Any] = {"TableName": self._target + table.name, "ConsistentRead": True}
        if projection is not None:
            asked |= {"ProjectionExpression": projection, "ExpressionAttributeNames": {"#ttl": "ttl"}}
        while True:
            found = await self._ask("scan", **asked)
            for row in found["Items"]:
                yield row
            if "LastEvaluatedKey" not in found:
                return
            asked["ExclusiveStartKey"] = found["LastEvaluatedKey"]

    async def _is_active(self, name: str) -> bool:
        found = (await self._ask("describe_table", TableName=name))["Table"]
        indexes = found.get("GlobalSecondaryIndexes", [])
        return all(one == "ACTIVE" for one in (found["TableStatus"], *[index["IndexStatus"] for index in indexes]))

    async def _unless_there(self, method: str, **arguments: Any) -> bool:
        """False: it is."""
        try:
            await self._ask(method, **arguments)
        except ClientError as error:
            if code_of(error) not in ("ResourceInUseException", "TableAlreadyExistsException"):
                raise
            return False
        return True

    async def _when_free(self, method: str, **arguments: Any) -> None:
        """A table that was just made is still busy with that, or with the change before."""
        while True:
            try:
                await self._ask(method, **arguments)
            except ClientError as error:
                if code_of(error) not in _BUSY:
                    raise
                await self._clock.sleep(_LOOK)
            else:
                return

    async def _ask(self, method: str, **arguments: Any) -> Any:
        return await self._dynamodb(lambda client: getattr(client, method)(**arguments))

    def _request(self, table: Table) -> Any:
        """As deploy/aws/tables.py has it."""
        request: dict[str, Any] = {
            "TableName": self._target + table.name,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": key.name, "AttributeType": key.type} for key in table.keys],
            "KeySchema": _keys(table.partition, table.sort),
            "SSESpecification": {"Enabled": True},
        }
        if table.indexes:
            request["GlobalSecondaryIndexes"] = [
                {
                    "IndexName": index.name,
                    "KeySchema": _keys(index.partition, index.sort),
                    "Projection": {"ProjectionType": "ALL"},
                }
                for index in table.indexes
            ]
        return request


class Mappings:
    """What hands the queues' batches to the functions. Meanwhile what is published waits in the queues."""

    def __init__(self, lambda_: Calls[Any], prefix: str, clock: Clock) -> None:
        self._lambda = lambda_
        self._functions = [prefix + name for name in CONSUMERS]
        self._clock = clock

    async def switch(self, *, on: bool) -> int:
        """Returns when they are; how many there are."""
        wanted = "Enabled" if on else "Disabled"
        found = await self._all()
        for one in found:
            if one["State"] != wanted:
                await self._ask("update_event_source_mapping", UUID=one["UUID"], Enabled=on)
        while any(one["State"] != wanted for one in await self._all()):
            await self._clock.sleep(_LOOK)
        return len(found)

    async def _all(self) -> list[Any]:
        pages = [await self._ask("list_event_source_mappings", FunctionName=name) for name in self._functions]
        return [one for page in pages for one in page["EventSourceMappings"]]

    async def _ask(self, method: str, **arguments: Any) -> Any:
        return await self._lambda(lambda client: getattr(client, method)(**arguments))


async def end_connections(dynamodb: "Calls[DynamoDBClient]", api: Calls[Any], table: str) -> int:
    """Ends every connection that the table knows, and forgets it; how many there were."""
    count = 0
    asked: dict[str, Any] = {"TableName": table, "ProjectionExpression": "connectionId", "ConsistentRead": True}
    while True:
        found = await dynamodb(lambda client: client.scan(**asked))
        for row in found["Items"]:
            await _end(api, row["connectionId"]["S"])
        await delete_many(dynamodb, table, found["Items"])
        count += len(found["Items"])
        if "LastEvaluatedKey" not in found:
            return count
        asked["ExclusiveStartKey"] = found["LastEvaluatedKey"]


async def _end(api: Calls[Any], connection_id: str) -> None:
    try:
        await api(lambda client: client.delete_connection(ConnectionId=connection_id))
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 410:  # it has ended by itself
            raise


def _keys(partition: Key, sort: Key | None) -> list[dict[str, str]]:
    keys = [{"AttributeName": partition.name, "KeyType": "HASH"}]
    if sort is not None:
        keys.append({"AttributeName": sort.name, "KeyType": "RANGE"})
    return keys
