"""Erasure: what a user or a chat has written is overwritten; its rows and their numbers stay.

    `tocsin aws erase` -> Erasure.chat | Erasure.user -> the tables page by page, and the dead letters

A message that is erased keeps chatId, timestamp, messageId, number and expiry. Its payload, its sender and the id that
its publisher chose are gone (ERASED, NOBODY).

Rules:
- numbers are never taken out: whoever resumes needs each of them, and finds a message that says that it was erased;
- what is overwritten stays so: a queue that still holds the message sets only what a row lacks. A message that has no
  row yet is not found: erase again when the queues have been empty;
- every step may be done twice, and each page is done before the next is read: a run that was ended goes on at `place`;
- a user's rows have no index: the whole of a table is read for them;
- a chat's last owner stays: the chat would have nobody left who may give it to another.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from botocore.exceptions import ClientError

from tocsin.bus import DeadLetter
from tocsin.clock import Clock
from tocsin.engines.aws.calls import CONDITION_FAILED, Calls, code_of
from tocsin.engines.aws.dynamodb_permissions import SERVICE, DynamodbPermissions
from tocsin.engines.aws.rows import Row, number, text
from tocsin.engines.aws.settings import AwsSettings
from tocsin.engines.aws.sns_bus import SnsBus
from tocsin.engines.aws.sqs_dead_letters import MOST_LISTED
from tocsin.errors import Refusal
from tocsin.identity import Identity
from tocsin.roles import INBOX

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

#: In place of a sender. `#` is in no userId, so nobody can be called so.
NOBODY: Final = "#erased"
#: In place of an id that a publisher chose.
NO_ID: Final = "erased"
#: Rows that are read at a time, and overwritten before the next.
PAGE: Final = 100
#: Whose decisions the erasure's are.
OPERATOR: Final = Identity(user_id="admin", scopes=frozenset({SERVICE}), expires_at=1 << 62)

Kind = Literal["messages", "letters", "permissions", "grants", "connections", "subscriptions", "tickets"]


class Tally(msgspec.Struct):
    """What was found, and unless it is a rehearsal was erased. `kept`: chats of which the user is the last owner.

    `place`: where the reading of messages stands; empty at its beginning and when it is through.
    """

    counts: Counter[Kind] = msgspec.field(default_factory=Counter)
    kept: list[str] = []
    place: str = ""


def erased(chat_id: str) -> bytes:
    """The payload of a message that was erased."""
    return msgspec.json.encode({"chatId": chat_id, "eventType": "erased", "content": None})


class Erasure:
    """One run. `rehearse`: everything is looked for and counted, nothing is changed."""

    def __init__(
        self,
        dynamodb: "Calls[DynamoDBClient]",
        settings: AwsSettings,
        bus: SnsBus,
        clock: Clock,
        *,
        rehearse: bool,
        place: str = "",
    ) -> None:
        """`place`: that of a run that was ended."""
        self._dynamodb = dynamodb
        self._settings = settings
        self._permissions = DynamodbPermissions(dynamodb, settings.permissions_table)
        self._bus = bus
        self._clock = clock
        self._rehearse = rehearse
        self.tally: Final = Tally(place=place)

    async def chat(self, chat_id: str) -> None:
        await self._letters(lambda letter: letter.chat_id == chat_id)
        await self._messages(
            {
                "KeyConditionExpression": "chatId = :chat",
                "FilterExpression": "attribute_not_exists(erasedAt)",
                "ExpressionAttributeValues": {":chat": text(chat_id)},
            }
        )

    async def user(self, user_id: str) -> None:
        """First what would let him write on; his messages last, and those of his inbox with them."""
        await self._roles(user_id)
        await self._connections(user_id)
        await self._tickets(user_id)
        await self._letters(lambda letter: INBOX + user_id == letter.chat_id or _sender(letter) == user_id)
        await self._messages(
            {
                "FilterExpression": "attribute_not_exists(erasedAt) AND (senderId = :user OR chatId = :inbox)",
                "ExpressionAttributeValues": {":user": text(user_id), ":inbox": text(INBOX + user_id)},
            }
        )

    # -- messages ------------------------------------------------------------------------------------------------------

    async def _messages(self, wanted: dict[str, Any]) -> None:
        table = self._settings.message_storage_table
        names = {"#timestamp": "timestamp"}
        projection = "chatId, #timestamp, messageDeduplicationId"
        asked = {"ProjectionExpression": projection, "ExpressionAttributeNames": names, **wanted}
        async for rows, last in self._pages(table, asked, start=_key_of_place(self.tally.place)):
            await self._each("messages", rows, lambda row: self._overwrite(table, row))
            self.tally.place = "" if last is None else _place_of_key(last)

    async def _overwrite(self, table: str, row: Row) -> None:
        values = {
            ":payload": text(erased(row["chatId"]["S"]).decode()),
            ":nobody": text(NOBODY),
            ":now": number(self._clock.now()),
        }
        sets = "SET payload = :payload, senderId = :nobody, erasedAt = :now"
        if "messageDeduplicationId" in row:
            sets += ", messageDeduplicationId = :none"
            values[":none"] = text(NO_ID)
        await self._unless_gone(
            TableName=table,
            Key={"chatId": row["chatId"], "timestamp": row["timestamp"]},
            UpdateExpression=sets,
            ConditionExpression="attribute_exists(chatId)",
            ExpressionAttributeValues=values,
        )

    async def _letters(self, is_meant: Callable[[DeadLetter], bool]) -> None:
        """Dead letters hold whole messages. Who purges one leaves its row, if it has one."""
        meant = [one.letter_id for one in await self._bus.dead_letters(limit=MOST_LISTED) if is_meant(one)]
        self.tally.counts["letters"] += len(meant)
        if not self._rehearse:
            await self._bus.purge(meant)

    # -- the user's other rows -----------------------------------------------------------------------------------------

    async def _connections(self, user_id: str) -> None:
        """Nothing is posted to them any more, and what they say is refused: `gone`."""
        connections, subscriptions = self._settings.connection_table, self._settings.subscription_table
        mine = {"FilterExpression": "userId = :user", "ExpressionAttributeValues": {":user": text(user_id)}}
        async for rows, _ in self._pages(connections, {**mine, "ProjectionExpression": "connectionId"}):
            await self._each("connections", rows, lambda row: self._delete(connections, row))
        async for rows, _ in self._pages(subscriptions, {**mine, "ProjectionExpression": "chatId, connectionId"}):
            await self._each("subscriptions", rows, lambda row: self._delete(subscriptions, row))

    async def _roles(self, user_id: str) -> None:
        """His own, tombstones too; and his name on what he has granted to others."""
        table = self._settings.permissions_table
        own = {"KeyConditionExpression": "userId = :user", "ExpressionAttributeValues": {":user": text(user_id)}}
        async for rows, _ in self._pages(table, {**own, "ProjectionExpression": "userId, chatId"}):
            await self._each("permissions", rows, lambda row: self._forget(table, user_id, row))
        granted = {
            "FilterExpression": "grantedBy = :user AND userId <> :user",
            "ExpressionAttributeValues": {":user": text(user_id)},
            "ProjectionExpression": "userId, chatId",
        }
        async for rows, _ in self._pages(table, granted):
            await self._each("grants", rows, lambda row: self._unname(table, user_id, row))

    async def _forget(self, table: str, user_id: str, row: Row) -> None:
        chat_id = row["chatId"]["S"]
        try:
            await self._permissions.revoke(OPERATOR, user_id, chat_id, self._clock.now())
        except Refusal as refusal:
            if refusal.code == "last_owner":
                self.tally.counts["permissions"] -= 1
                self.tally.kept.append(chat_id)
                return
            if refusal.code != "not_found":
                raise
        await self._delete(table, row, unless="role")

    async def _unname(self, table: str, user_id: str, row: Row) -> None:
        await self._unless_gone(
            TableName=table,
            Key=row,
            UpdateExpression="SET grantedBy = :nobody",
            ConditionExpression="grantedBy = :user",
            ExpressionAttributeValues={":nobody": text(NOBODY), ":user": text(user_id)},
        )

    async def _tickets(self, user_id: str) -> None:
        """Claims and tries name nobody: their keys are hashes and messageIds."""
        table = self._settings.claim_table
        wanted = {
            "FilterExpression": "attribute_exists(#identity)",
            "ProjectionExpression": "claim, #identity",
            "ExpressionAttributeNames": {"#identity": "identity"},
        }
        async for rows, _ in self._pages(table, wanted):
            his = [
                {"claim": row["claim"]}
                for row in rows
                if msgspec.json.decode(row["identity"]["S"], type=Identity).user_id == user_id
            ]
            await self._each("tickets", his, lambda key: self._delete(table, key))

    # -- the tables ----------------------------------------------------------------------------------------------------

    async def _pages(
        self, table: str, wanted: dict[str, Any], *, start: Row | None = None
    ) -> AsyncIterator[tuple[list[Row], Row | None]]:
        """Each with the key behind which the next one begins."""
        asked: dict[str, Any] = {"TableName": table, "ConsistentRead": True, "Limit": PAGE, **wanted}
        while True:
            if start:
                asked["ExclusiveStartKey"] = start
            found: Any = await self._dynamodb(
                lambda client: client.query(**asked) if "KeyConditionExpression" in asked else client.scan(**asked)
            )
            start = found.get("LastEvaluatedKey")
            yield found["Items"], start
            if start is None:
                return

    async def _each(self, kind: Kind, rows: Sequence[Row], change: Callable[[Row], Awaitable[None]]) -> None:
        self.tally.counts[kind] += len(rows)
        if not self._rehearse:
            await asyncio.gather(*map(change, rows))

    async def _delete(self, table: str, key: Row, *, unless: str | None = None) -> None:
        """`unless`: not if it has this attribute."""
        optional: dict[str, Any] = {}
        if unless is not None:
            optional = {
                "ConditionExpression": "attribute_not_exists(#unless)",
                "ExpressionAttributeNames": {"#unless": unless},
            }
        try:
            await self._dynamodb(lambda client: client.delete_item(TableName=table, Key=key, **optional))
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:  # else it was granted anew meanwhile
                raise

    async def _unless_gone(self, **update: Any) -> None:
        """An update makes a row where there is none: what has expired meanwhile must not come back."""
        try:
            await self._dynamodb(lambda client: client.update_item(**update))
        except ClientError as error:
            if code_of(error) != CONDITION_FAILED:
                raise


def _sender(letter: DeadLetter) -> str | None:
    """None: what lies there is no message."""
    body = msgspec.json.decode(letter.body)
    return body.get("senderId") if isinstance(body, dict) else None


def _place_of_key(key: Row) -> str:
    return f"{key['chatId']['S']}/{key['timestamp']['S']}"


def _key_of_place(place: str) -> Row | None:
    """`/` is in no chatId."""
    if not place:
        return None
    chat_id, _, timestamp = place.partition("/")
    return {"chatId": text(chat_id), "timestamp": text(timestamp)}
