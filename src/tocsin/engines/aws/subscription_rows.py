"""SubscriptionTable's rows: who listens to a chat, where each stands, and the only ways in which a row changes.

    dynamodb_connections (begin, go live, end) | apigateway_clients (owe) | gaps (miss, tell) -> SubscriptionRows

A row: chatId, connectionId, userId, state, gen, from, owed?, missedFrom?, missedTo?, unnumbered?, failures?,
connectedAt, ttl. Its states: `pending` (a replay goes on; numbered messages are owed to it), `live` (gets what is above
`from`), `revoked` (gets nothing; kept until its connection has surely been told).

Rules:
- every change names the `gen` that it means. DynamoDB's update makes a row where there is none: without the condition
  it would bring a subscription back to life that has been ended;
- whether a number is owed or posted is decided by the row itself, in one conditional write: the condition fails if it
  went live meanwhile, and the row comes back with the failure;
- the chat's counter is in none of these writes: a condition on it would cancel the numbering of a busy chat.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from botocore.exceptions import ClientError

from tocsin.engines.aws.calls import CONDITION_FAILED, Calls, code_of
from tocsin.engines.aws.rows import Row, get_one, number, text

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef, QueryInputTypeDef

State = Literal["pending", "live", "revoked"]

#: API Gateway ends a connection after two hours; so many seconds after its beginning nothing of it counts any more.
LIFE_SECONDS: Final = 2 * 3_600 + 600

#: Attributes whose names DynamoDB reserves, or might.
_NAMES: Final = {f"#{name}": name for name in ("state", "from", "ttl", "gen")}


class SubscriptionRow(msgspec.Struct, frozen=True, kw_only=True):
    """`start` is the attribute `from`. Missed is what could not be posted and has not been told: numbers from
    `missed_from` (None: none) to `missed_to`, and so many `unnumbered`. `failures`: posts in a row whose end is
    unknown."""

    chat_id: str
    connection_id: str
    user_id: str
    state: State
    gen: str
    connected_at: int
    start: int = 0
    owed: int = 0
    missed_from: int | None = None
    missed_to: int = 0
    unnumbered: int = 0
    failures: int = 0

    @property
    def has_missed(self) -> bool:
        return self.missed_from is not None or self.unnumbered > 0

    def takes(self, sequence: int | None) -> bool:
        """Whether it is to be posted a message with this number, or with none. What it was marked to have missed it is
        told, and not sent after all by whoever tries again."""
        return sequence is None or (self.state == "live" and sequence > max(self.start, self.missed_to))

    @property
    def key(self) -> "dict[str, AttributeValueTypeDef]":
        return key_of(self.chat_id, self.connection_id)

    def item(self) -> "dict[str, AttributeValueTypeDef]":
        """As it begins."""
        return {
            **self.key,
            "userId": text(self.user_id),
            "state": text(self.state),
            "gen": text(self.gen),
            "from": number(self.start),
            "connectedAt": number(self.connected_at),
            "ttl": number(end_of_life(self.connected_at)),
        }


def key_of(chat_id: str, connection_id: str) -> "dict[str, AttributeValueTypeDef]":
    return {"chatId": text(chat_id), "connectionId": text(connection_id)}


def end_of_life(connected_at: int) -> int:
    """In seconds, of what belongs to a connection that began then (in milliseconds)."""
    return connected_at // 1000 + LIFE_SECONDS


class SubscriptionRows:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str) -> None:
        self._dynamodb = dynamodb
        self.table: Final = table

    # -- reading -------------------------------------------------------------------------------------------------------

    async def get(self, chat_id: str, connection_id: str, now: int) -> SubscriptionRow | None:
        item = await get_one(self._dynamodb, self.table, key_of(chat_id, connection_id))
        return _read(item) if item and int(item["ttl"]["N"]) > now // 1000 else None

    async def of_chat(self, chat_id: str, now: int, *, user_id: str | None = None) -> list[SubscriptionRow]:
        """All, or one user's, in any state; from the table itself, so that none is missing."""
        wanted: QueryInputTypeDef = {
            "TableName": self.table,
            "KeyConditionExpression": "chatId = :chat",
            "FilterExpression": "#ttl > :now" + ("" if user_id is None else " AND userId = :user"),
            "ExpressionAttributeNames": {"#ttl": "ttl"},
            "ExpressionAttributeValues": {
                ":chat": text(chat_id),
                ":now": number(now // 1000),
                **({} if user_id is None else {":user": text(user_id)}),
            },
            "ConsistentRead": True,
        }
        rows: list[SubscriptionRow] = []
        while True:
            found = await self._dynamodb(lambda client: client.query(**wanted))
            rows += map(_read, found["Items"])
            if "LastEvaluatedKey" not in found:
                return rows
            wanted["ExclusiveStartKey"] = found["LastEvaluatedKey"]

    # -- changing ------------------------------------------------------------------------------------------------------

    async def owe(self, row: SubscriptionRow, sequence: int) -> SubscriptionRow | None:
        """Leaves the number to the row's replay. The row, if it has gone live meanwhile and is to be posted to."""
        found = await self._change(
            row,
            "SET owed = :owed",
            {":owed": number(sequence)},
            condition="#state = :pending AND (attribute_not_exists(owed) OR owed < :owed)",
            states=("pending",),
        )
        return found if found is not None and found.state == "live" else None

    async def go_live(self, row: SubscriptionRow, delivered: int) -> SubscriptionRow | None:
        """The row as it is then: live, or still pending because more is owed. None: it has been ended."""
        return await self._change(
            row,
            "SET #state = :live, #from = :from REMOVE owed",
            {":from": number(delivered)},
            condition="#state = :pending AND (attribute_not_exists(owed) OR owed <= :from)",
            states=("pending", "live"),
        )

    async def go_live_short(self, row: SubscriptionRow, delivered: int) -> SubscriptionRow | None:
        """Live at once: what is owed above `delivered` is missed. None: it has been ended, or went live before."""
        return await self._change(
            row,
            "SET #state = :live, #from = owed, missedFrom = :first, missedTo = owed REMOVE owed",
            {":first": number(delivered + 1)},
            condition="#state = :pending AND attribute_exists(owed)",
            states=("pending", "live"),
        )

    async def miss(self, row: SubscriptionRow, first: int | None, last: int, unnumbered: int, *, failures: int) -> None:
        """Adds to what the row has missed. Without effect where the subscription has ended."""
        sets = "" if first is None else "SET missedFrom = if_not_exists(missedFrom, :first), missedTo = :last "
        values = {":unnumbered": number(unnumbered), ":failures": number(failures)}
        if first is not None:
            values |= {":first": number(first), ":last": number(last)}
        await self._change(
            row,
            f"{sets}ADD unnumbered :unnumbered, failures :failures",
            values,
            condition="#state <> :revoked",
            states=("revoked",),
        )

    async def told(self, row: SubscriptionRow) -> None:
        """Strikes out what `row` says it has missed, because it was told. What it has missed since, stays; what
        somebody else has struck out meanwhile is not struck out twice."""
        strikes, condition, values = "ADD unnumbered :struck REMOVE failures", [], {":struck": number(-row.unnumbered)}
        if row.unnumbered:
            condition.append("unnumbered >= :unnumbered")
            values[":unnumbered"] = number(row.unnumbered)
        if row.missed_from is None:
            await self._change(row, strikes, values, condition=" AND ".join(condition))
            return
        condition.append("missedFrom = :first")
        values |= {":first": number(row.missed_from), ":last": number(row.missed_to)}
        found = await self._change(
            row, f"{strikes}, missedFrom, missedTo", values, condition=" AND ".join([*condition, "missedTo = :last"])
        )
        if found is not None and found.missed_from == row.missed_from:  # there are more by now
            await self._change(
                row,
                f"SET missedFrom = :next {strikes}",
                {**values, ":next": number(row.missed_to + 1)},
                condition=" AND ".join([*condition, "missedTo > :last"]),
            )

    async def revoke(self, row: SubscriptionRow) -> bool:
        """False: it has been ended, or begun anew."""
        return await self._change(row, "SET #state = :revoked", {}, states=("revoked",)) is not None

    async def delete(self, row: SubscriptionRow) -> None:
        try:
            await self._dynamodb(
                lambda client: client.delete_item(
                    TableName=self.table,
                    Key=row.key,
                    ConditionExpression="#gen = :gen",
                    ExpressionAttributeNames={"#gen": "gen"},
                    ExpressionAttributeValues={":gen": text(row.gen)},
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:  # else it has been deleted, or begun anew
                raise

    async def _change(
        self,
        row: SubscriptionRow,
        update: str,
        values: "dict[str, AttributeValueTypeDef]",
        *,
        condition: str = "",
        states: Sequence[State] = (),
    ) -> SubscriptionRow | None:
        """The row of this `gen` as it is then, whether the condition held or not; None: there is none."""
        whole = "#gen = :gen" + (f" AND {condition}" if condition else "")
        try:
            found: Any = await self._dynamodb(
                lambda client: client.update_item(
                    TableName=self.table,
                    Key=row.key,
                    UpdateExpression=update,
                    ConditionExpression=whole,
                    ExpressionAttributeNames={
                        alias: name for alias, name in _NAMES.items() if alias in f"{update} {whole}"
                    },
                    ExpressionAttributeValues={
                        **values,
                        ":gen": text(row.gen),
                        **{f":{state}": text(state) for state in states},
                    },
                    ReturnValues="ALL_NEW",
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            )
            item = found["Attributes"]
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise
            item = error.response.get("Item", {})
        return _read(item) if item and item["gen"]["S"] == row.gen else None


def _read(item: Row) -> SubscriptionRow:
    def whole(name: str) -> int:
        return int(item[name]["N"]) if name in item else 0

    return SubscriptionRow(
        chat_id=item["chatId"]["S"],
        connection_id=item["connectionId"]["S"],
        user_id=item["userId"]["S"],
        state=item["state"]["S"],
        gen=item["gen"]["S"],
        connected_at=whole("connectedAt"),
        start=whole("from"),
        owed=whole("owed"),
        missed_from=whole("missedFrom") if "missedFrom" in item else None,
        missed_to=whole("missedTo"),
        unnumbered=whole("unnumbered"),
        failures=whole("failures"),
    )
