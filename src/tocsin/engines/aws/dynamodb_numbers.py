"""Numbers on DynamoDB: counter and message in one transaction; what the counters say.

    processor -> number -> [the message's row, the chat's counter]
    connection_handler, message_retrieval, chat_permission -> heads

SequenceCounterTable: scope = chatId {sequence, lastExpiry, since}; `oldest#<chatId>` {sequence, expiry}; `#epoch`.

Rules:
- the row takes its number only if it has none, the counter moves only from where it was read: so a message that comes
  again finds its number, and no number is drawn twice or left out;
- what is kept longest is the newest: a row's ttl is never below that of the number before it (`lastExpiry`), so
  expiry ascends with the numbers and opens no hole;
- `oldest` is only ever raised. `since` is the number behind which everything had expired when it was drawn.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from botocore.exceptions import ClientError

from tocsin.clock import Clock
from tocsin.engines.aws.bus_format import is_numbered, with_number
from tocsin.engines.aws.calls import CONDITION_FAILED, TRANSACTION_CANCELED, Calls, code_of, reasons_of
from tocsin.engines.aws.message_rows import MessageRows, RowUpdate, expiry_of, is_kept, key_of, number_of
from tocsin.engines.aws.rows import Row, get_many, get_one, number, text
from tocsin.engines.aws.schema import EPOCH, OLDEST
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.tables import Head

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_FAILED: Final = "ConditionalCheckFailed"


class _Counter(msgspec.Struct, frozen=True, kw_only=True):
    """`last_expiry` in seconds: the ttl of the last number."""

    sequence: int = 0
    last_expiry: int = 0
    since: int = 1


class DynamodbNumbers:
    def __init__(
        self,
        *,
        dynamodb: "Calls[DynamoDBClient]",
        table: str,
        rows: MessageRows,
        clock: Clock,
        failpoints: Failpoints,
        new_epoch: Callable[[], str],
    ) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._rows = rows
        self._clock = clock
        self._failpoints = failpoints
        self._new_epoch = new_epoch

    # -- numbering -----------------------------------------------------------------------------------------------------

    async def number(self, messages: Sequence[Message]) -> Sequence[Message]:
        chats: dict[str, list[Message]] = {}
        for message in messages:
            chats.setdefault(message.chat_id, []).append(message)
        numbered = await asyncio.gather(*[self._number_chat(chat_id, those) for chat_id, those in chats.items()])
        found = {message.message_id: message for those in numbered for message in those}
        return [found[message.message_id] for message in messages]

    async def _number_chat(self, chat_id: str, messages: Sequence[Message]) -> list[Message]:
        counter: _Counter | None = None
        done = []
        for message in messages:
            if is_numbered(message) and message.sequence_number is None:
                if counter is None:
                    counter = _counter(await self._get(chat_id))
                message, counter = await self._number(message, counter)
            done.append(message)
        await self._failpoints.reach("number.committed", done)
        return done

    async def _number(self, message: Message, counter: _Counter) -> tuple[Message, _Counter]:
        """The numbered message, and the counter as it is then."""
        while True:
            drawn = _Counter(
                sequence=counter.sequence + 1,
                last_expiry=max(self._rows.expiry(message), counter.last_expiry),
                since=counter.since if is_kept(counter.last_expiry, self._clock.now()) else counter.sequence + 1,
            )
            try:
                await self._commit(message, counter, drawn)
            except ClientError as error:
                if code_of(error) != TRANSACTION_CANCELED:
                    raise
                row, count = reasons_of(error)
                if row.get("Code") == _FAILED:
                    first = number_of(row["Item"])
                    assert first is not None
                    return with_number(message, first, max(first, counter.sequence)), counter
                if count.get("Code") != _FAILED:
                    raise
                counter = _counter(count.get("Item", {}))
            else:
                return with_number(message, drawn.sequence, drawn.sequence), drawn

    async def _commit(self, message: Message, before: _Counter, drawn: _Counter) -> None:
        sequence, expiry = number(drawn.sequence), number(drawn.last_expiry)
        row = RowUpdate(message, {"sequenceNumber": sequence, "ttl": expiry})
        values = {":sequence": sequence, ":expiry": expiry, ":since": number(drawn.since)}
        condition = "attribute_not_exists(#scope)"
        names = {"#sequence": "sequence", "#lastExpiry": "lastExpiry", "#since": "since"}
        if before.sequence:
            condition = "#sequence = :before"
            values[":before"] = number(before.sequence)
        else:
            names["#scope"] = "scope"
        await self._dynamodb(
            lambda client: client.transact_write_items(
                TransactItems=[
                    {
                        "Update": {
                            "TableName": self._rows.table,
                            "Key": key_of(message),
                            "UpdateExpression": row.expression,
                            "ConditionExpression": "attribute_not_exists(#sequenceNumber)",
                            "ExpressionAttributeNames": row.names,
                            "ExpressionAttributeValues": row.values,
                            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                        }
                    },
                    {
                        "Update": {
                            "TableName": self._table,
                            "Key": {"scope": text(message.chat_id)},
                            "UpdateExpression": "SET #sequence = :sequence, #lastExpiry = :expiry, #since = :since",
                            "ConditionExpression": condition,
                            "ExpressionAttributeNames": names,
                            "ExpressionAttributeValues": values,
                            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                        }
                    },
                ]
            )
        )

    # -- what the counters say -----------------------------------------------------------------------------------------

    async def heads(self, chat_ids: Collection[str]) -> Mapping[str, Head]:
        chats = list(dict.fromkeys(chat_ids))
        scopes = [EPOCH, *chats, *[OLDEST + chat_id for chat_id in chats]]
        found = await get_many(self._dynamodb, self._table, [{"scope": text(scope)} for scope in scopes])
        items = {item["scope"]["S"]: item for item in found}
        epoch = items[EPOCH]["epoch"]["S"] if EPOCH in items else await self._begin_epoch()
        oldest = await asyncio.gather(
            *[
                self._oldest(chat_id, _counter(items.get(chat_id, {})), items.get(OLDEST + chat_id, {}))
                for chat_id in chats
            ]
        )
        return {
            chat_id: Head(sequence=_counter(items.get(chat_id, {})).sequence, oldest=first, epoch=epoch)
            for chat_id, first in zip(chats, oldest, strict=True)
        }

    async def _begin_epoch(self) -> str:
        """The store's life begins when it is first asked for; of two who ask at once one names it."""
        try:
            epoch = self._new_epoch()
            await self._dynamodb(
                lambda client: client.put_item(
                    TableName=self._table,
                    Item={"scope": text(EPOCH), "epoch": text(epoch)},
                    ConditionExpression="attribute_not_exists(#scope)",
                    ExpressionAttributeNames={"#scope": "scope"},
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise
            epoch = (await self._get(EPOCH))["epoch"]["S"]
        return epoch

    async def _oldest(self, chat_id: str, counter: _Counter, known: Row) -> int:
        """The first number that has not expired; head + 1 if all have."""
        now = self._clock.now()
        floor = int(known["sequence"]["N"]) if known else 0
        if not is_kept(counter.last_expiry, now):
            return await self._raise(chat_id, floor, max(floor, counter.sequence + 1), None)
        if floor > counter.sequence or ("expiry" in known and is_kept(int(known["expiry"]["N"]), now)):
            return floor
        first, expiry = await self._first_kept(chat_id, max(floor, counter.since), counter, now)
        return await self._raise(chat_id, floor, first, expiry)

    async def _raise(self, chat_id: str, floor: int, first: int, expiry: int | None) -> int:
        """Writes the oldest number down, with when it expires if that is known; what is then the oldest."""
        if expiry is None and first <= max(floor, 1):
            return first
        item = {"scope": text(OLDEST + chat_id), "sequence": number(first)}
        if expiry is not None:
            item["expiry"] = number(expiry)
        try:
            await self._dynamodb(
                lambda client: client.put_item(
                    TableName=self._table,
                    Item=item,
                    ConditionExpression="attribute_not_exists(#scope) OR #sequence <= :first",
                    ExpressionAttributeNames={"#scope": "scope", "#sequence": "sequence"},
                    ExpressionAttributeValues={":first": number(first)},
                )
            )
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise
            return int((await self._get(OLDEST + chat_id))["sequence"]["N"])
        return first

    async def _first_kept(self, chat_id: str, first: int, counter: _Counter, now: int) -> tuple[int, int | None]:
        """The first number from `first` on that has not expired, and when it does (None: the index lags).

        In strides that double, then by halves: a busy chat's oldest is never far from where it was, and one that
        slept has only to find it once. The head itself has not expired.
        """
        expired, stride, probe = first - 1, 1, first
        while probe < counter.sequence:
            row = await self._at_or_after(chat_id, probe)
            if row is None or is_kept(expiry_of(row), now):
                break
            expired = number_of(row) or probe
            probe, stride = expired + stride, stride * 2
        kept = min(probe, counter.sequence)
        while kept - expired > 1:
            middle = (expired + kept) // 2
            row = await self._at_or_after(chat_id, middle)
            if row is not None and not is_kept(expiry_of(row), now):
                expired = number_of(row) or middle
            else:
                kept = middle
        return await self._settle(chat_id, kept, counter)

    async def _settle(self, chat_id: str, kept: int, counter: _Counter) -> tuple[int, int | None]:
        """What the index begins with behind the last expired number is the first one kept, unless what is missing
        before it is not deleted but new: then it is among the newest rows."""
        if kept == counter.sequence:
            return kept, counter.last_expiry
        row = await self._at_or_after(chat_id, kept)
        if row is not None and number_of(row) == kept:
            return kept, expiry_of(row)
        newest = {number_of(one): expiry_of(one) for one in await self._rows.newest(chat_id)}
        if kept in newest or row is None:
            return kept, newest.get(kept)
        return number_of(row) or kept, expiry_of(row)

    async def _get(self, scope: str) -> Row:
        return await get_one(self._dynamodb, self._table, {"scope": text(scope)})

    async def _at_or_after(self, chat_id: str, first: int) -> Row | None:
        rows = await self._rows.by_index(chat_id, first, 1 << 62, 1)
        return rows[0] if rows else None


def _counter(item: Row) -> _Counter:
    if not item:
        return _Counter()
    return _Counter(
        sequence=int(item["sequence"]["N"]),
        last_expiry=int(item["lastExpiry"]["N"]),
        since=int(item["since"]["N"]),
    )
