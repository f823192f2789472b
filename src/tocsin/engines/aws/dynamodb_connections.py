"""Connections on DynamoDB: who is connected (ConnectionTable), who listens to what (SubscriptionTable).

    connection_handler -> open, get, refresh, close, subscribe, stands, go_live, leave
    processor -> audience        chat_permission -> revoke        the minute's job -> expiring

Rules:
- a subscription is made in the transaction that checks its permission and finds the connection open; what a closed
  connection listened to stands in `chatIds` of its row, which goes first;
- audience and revocation read a chat's partition, consistently; no index is asked for either;
- a replay that is overtaken again and again ends: after ROUNDS it goes live, and what is owed is told by `gap`;
- a token's end is looked up in the connection's own row. The rows by the minute only say where to look.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from botocore.exceptions import ClientError

from tocsin.clients import LEEWAY_MILLISECONDS, Connection, Listeners, Subscription
from tocsin.clock import Clock
from tocsin.engines.aws.calls import Calls, Unreachable, failed_conditions
from tocsin.engines.aws.connection_rows import ConnectionRows, Entry
from tocsin.engines.aws.gaps import Gaps
from tocsin.engines.aws.minute_rows import MinuteRows, expiry_bucket, expiry_buckets, minute_of
from tocsin.engines.aws.rows import delete_many, text
from tocsin.engines.aws.subscription_rows import (
    LIFE_SECONDS,
    SubscriptionRow,
    SubscriptionRows,
    key_of,
)
from tocsin.errors import Refusal, forbidden
from tocsin.identity import Identity
from tocsin.metrics import Metrics
from tocsin.roles import is_inbox_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

#: A transaction holds 100 items: the connection, and for each chat a check and a row.
TOGETHER: Final = 49
#: How often a replay is told that more is owed.
ROUNDS: Final = 5
#: From how long before a token's `exp` its connection is warned; the job comes each minute.
WARNING_MILLISECONDS: Final = 120_000
#: Minutes whose rows are looked at, at least: late ones, and up to the warning.
_MINUTES: Final = range(-3, 4)

_GONE: Final = "The connection is gone."


class Audience(msgspec.Struct, frozen=True):
    """One chat's."""

    rows: Sequence[SubscriptionRow]


class DynamodbSubscription:
    """What was begun with this `gen`; how often its replay was overtaken."""

    __slots__ = ("rounds", "row")

    def __init__(self, row: SubscriptionRow) -> None:
        self.row: Final = row
        self.rounds = 0

    @property
    def connection_id(self) -> str:
        return self.row.connection_id

    @property
    def chat_id(self) -> str:
        return self.row.chat_id


class DynamodbConnections:
    def __init__(
        self,
        *,
        dynamodb: "Calls[DynamoDBClient]",
        permissions_table: str,
        connections: ConnectionRows,
        rows: SubscriptionRows,
        minutes: MinuteRows,
        gaps: Gaps,
        clock: Clock,
        metrics: Metrics,
        new_gen: Callable[[], str],
        chats_per_connection: int,
    ) -> None:
        self._dynamodb = dynamodb
        self._permissions_table = permissions_table
        self._connections = connections
        self._rows = rows
        self._minutes = minutes
        self._gaps = gaps
        self._clock = clock
        self._metrics = metrics
        self._new_gen = new_gen
        self._chats_per_connection = chats_per_connection

    # -- who is connected ----------------------------------------------------------------------------------------------

    async def open(self, connection: Connection) -> None:
        await self._await_end(connection.connection_id, connection.identity)
        await self._connections.put(connection)
        self._metrics.count("connects")

    async def get(self, connection_id: str) -> Connection | None:
        entry = await self._connections.get(connection_id)
        return None if entry is None else entry.connection

    async def refresh(self, connection_id: str, identity: Identity) -> None:
        await self._await_end(connection_id, identity)
        await self._connections.refresh(connection_id, identity)

    async def close(self, connection_ids: Collection[str]) -> None:
        await asyncio.gather(*map(self._close, dict.fromkeys(connection_ids)))

    async def _close(self, connection_id: str) -> None:
        """Once its row is gone it subscribes to nothing any more; what it listened to goes then."""
        entry = await self._connections.delete(connection_id)
        if entry is not None:
            keys = [key_of(chat_id, connection_id) for chat_id in entry.chat_ids]
            await delete_many(self._dynamodb, self._rows.table, keys)
            self._metrics.count("disconnects")

    # -- when tokens end -----------------------------------------------------------------------------------------------

    async def _await_end(self, connection_id: str, identity: Identity) -> None:
        """The job will look at the connection when its token ends, unless that comes after the connection's own end."""
        minute = minute_of(identity.expires_at)
        if identity.expires_at < self._clock.now() + LIFE_SECONDS * 1000:
            await self._minutes.put(expiry_bucket(minute, connection_id), minute, connection_id)

    async def expiring(self, now: int) -> Sequence[Connection]:
        buckets = [bucket for minute in await self._minutes.due(now, _MINUTES) for bucket in expiry_buckets(minute)]
        names = await asyncio.gather(*map(self._minutes.names, buckets))
        entries = await self._connections.get_many({name for found in names for name in found})
        due = await asyncio.gather(*[self._is_due(entry, now) for entry in entries])
        return [entry.connection for entry, is_due in zip(entries, due, strict=True) if is_due]

    async def _is_due(self, entry: Entry, now: int) -> bool:
        ends = entry.connection.identity.expires_at
        if ends <= now:
            return True
        if ends - LEEWAY_MILLISECONDS - now > WARNING_MILLISECONDS or entry.warned_for == ends:
            return False
        return await self._connections.warn(entry)

    # -- who listens to what -------------------------------------------------------------------------------------------

    async def subscribe(self, connection_id: str, chat_ids: Sequence[str]) -> Sequence[Subscription | Refusal]:
        found: dict[str, Subscription | Refusal] = {}
        for at in range(0, len(chat_ids), TOGETHER):
            wanted = list(dict.fromkeys(chat_ids[at : at + TOGETHER]))
            while wanted:
                settled = await self._subscribe(connection_id, wanted)
                found |= settled
                wanted = [chat_id for chat_id in wanted if chat_id not in settled]
        return [found[chat_id] for chat_id in chat_ids]

    async def _subscribe(self, connection_id: str, chat_ids: Sequence[str]) -> Mapping[str, Subscription | Refusal]:
        """Those that are refused, if any are; all, if none is. None of them: something changed meanwhile."""
        entry = await self._connections.get(connection_id)
        if entry is None:
            return {chat_id: Refusal("gone", _GONE, chat_id=chat_id) for chat_id in chat_ids}
        refused = self._refuse(entry, chat_ids)
        if refused:
            return refused
        await self._tell_missed([chat_id for chat_id in chat_ids if chat_id in entry.chat_ids], connection_id)
        identity = entry.connection.identity
        subscriptions = {chat_id: DynamodbSubscription(self._begin(entry.connection, chat_id)) for chat_id in chat_ids}
        checked = [chat_id for chat_id in chat_ids if not _needs_no_role(identity, chat_id)]
        new = [chat_id for chat_id in chat_ids if chat_id not in entry.chat_ids]
        items = [
            self._connections.joining(connection_id, chat_ids, room=self._chats_per_connection - len(new)),
            *[self._check(identity.user_id, chat_id) for chat_id in checked],
            *[self._put(subscription.row) for subscription in subscriptions.values()],
        ]
        try:
            await self._dynamodb(lambda client: client.transact_write_items(TransactItems=items))
        except ClientError as error:
            failed = failed_conditions(error)
            if not any(failed):
                raise
            lost = [chat_id for chat_id, is_lost in zip(checked, failed[1:], strict=False) if is_lost]
            return {chat_id: forbidden(chat_id) for chat_id in lost}
        return dict(subscriptions)

    def _refuse(self, entry: Entry, chat_ids: Sequence[str]) -> Mapping[str, Refusal]:
        """What can be said without the permissions."""
        refused: dict[str, Refusal] = {}
        limit, room = entry.connection.identity.chat_ids, self._chats_per_connection - len(entry.chat_ids)
        for chat_id in chat_ids:
            if limit is not None and chat_id not in limit:
                refused[chat_id] = forbidden(chat_id)
            elif chat_id in entry.chat_ids:
                continue
            elif room <= 0:
                refused[chat_id] = Refusal(
                    "invalid_argument",
                    f"A connection may listen to {self._chats_per_connection} chats.",
                    field="chatId",
                    chat_id=chat_id,
                )
            else:
                room -= 1
        return refused

    async def _tell_missed(self, chat_ids: Sequence[str], connection_id: str) -> None:
        """Before a subscription is begun anew what its row has missed is told: the new row knows nothing of it."""
        rows = await asyncio.gather(
            *[self._rows.get(chat_id, connection_id, self._clock.now()) for chat_id in chat_ids]
        )
        for row in rows:
            if row is not None and row.has_missed and await self._gaps.tell_in_turn(row) in ("busy", "failed"):
                raise Unreachable(definite=True)

    def _begin(self, connection: Connection, chat_id: str) -> SubscriptionRow:
        return SubscriptionRow(
            chat_id=chat_id,
            connection_id=connection.connection_id,
            user_id=connection.identity.user_id,
            state="pending",
            gen=self._new_gen(),
            connected_at=connection.connected_at,
        )

    def _check(self, user_id: str, chat_id: str) -> "TransactWriteItemTypeDef":
        return {
            "ConditionCheck": {
                "TableName": self._permissions_table,
                "Key": {"userId": text(user_id), "chatId": text(chat_id)},
                "ConditionExpression": "attribute_exists(#role)",
                "ExpressionAttributeNames": {"#role": "role"},
            }
        }

    def _put(self, row: SubscriptionRow) -> "TransactWriteItemTypeDef":
        return {"Put": {"TableName": self._rows.table, "Item": row.item()}}

    async def is_live(self, connection_id: str, chat_id: str) -> bool:
        row = await self._rows.get(chat_id, connection_id, self._clock.now())
        return row is not None and row.state == "live"

    async def stands(self, subscription: Subscription) -> bool:
        assert isinstance(subscription, DynamodbSubscription)
        began = subscription.row
        row = await self._rows.get(began.chat_id, began.connection_id, self._clock.now())
        return row is not None and row.gen == began.gen and row.state == "pending"

    async def go_live(self, subscription: Subscription, delivered: int) -> int | None:
        assert isinstance(subscription, DynamodbSubscription)
        row = await self._rows.go_live(subscription.row, delivered)
        if row is None or row.state != "pending":
            return None
        subscription.rounds += 1
        if subscription.rounds < ROUNDS:
            return row.owed
        await self._gaps.remember(row)
        short = await self._rows.go_live_short(row, delivered)
        if short is not None and short.has_missed:
            await self._gaps.tell_in_turn(short)
        return None

    async def leave(self, connection_id: str, chat_id: str) -> bool:
        while True:
            row = await self._rows.get(chat_id, connection_id, self._clock.now())
            if row is None:
                return False
            if row.has_missed and row.state != "revoked":
                await self._gaps.tell_in_turn(row)  # where that fails, what it missed ends with it
            if await self._leave(row):
                return row.state != "revoked"

    async def _leave(self, row: SubscriptionRow) -> bool:
        """False: it was begun anew meanwhile."""
        delete: TransactWriteItemTypeDef = {
            "Delete": {
                "TableName": self._rows.table,
                "Key": row.key,
                "ConditionExpression": "#gen = :gen",
                "ExpressionAttributeNames": {"#gen": "gen"},
                "ExpressionAttributeValues": {":gen": text(row.gen)},
            }
        }
        forget = self._connections.leaving(row.connection_id, row.chat_id)
        try:
            await self._dynamodb(lambda client: client.transact_write_items(TransactItems=[delete, forget]))
        except ClientError as error:
            failed = failed_conditions(error)
            if not any(failed):
                raise
            if failed[0]:
                return False
            await self._rows.delete(row)  # the connection is closed
        return True

    async def revoke(self, user_id: str, chat_id: str) -> Sequence[str]:
        rows = await self._rows.of_chat(chat_id, self._clock.now(), user_id=user_id)
        revoked = await asyncio.gather(*map(self._rows.revoke, rows))
        return [row.connection_id for row, is_revoked in zip(rows, revoked, strict=True) if is_revoked]

    async def audience(self, chat_ids: Collection[str]) -> Mapping[str, Listeners]:
        chats, now = list(dict.fromkeys(chat_ids)), self._clock.now()
        found = await asyncio.gather(*[self._rows.of_chat(chat_id, now) for chat_id in chats])
        audiences = {
            chat_id: Audience([row for row in rows if row.state != "revoked"])
            for chat_id, rows in zip(chats, found, strict=True)
        }
        return {chat_id: audience for chat_id, audience in audiences.items() if audience.rows}


def _needs_no_role(identity: Identity, chat_id: str) -> bool:
    return "messages:read" in identity.scopes or is_inbox_of(identity.user_id, chat_id)
