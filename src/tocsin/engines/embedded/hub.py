"""The hub: every open connection, and what it listens to. Connections and Clients of the embedded engine.

    processor -> deliver -> FanOut -> the listeners' sockets
    connection_handler -> open, subscribe, go_live

Rules:
- what was gathered is flushed before anybody joins, leaves or is revoked;
- from the check of a permission to the subscription nothing waits;
- a listener that can't take more is set aside, and told by `gap` when it can.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from tocsin.clients import Connection, Listeners, Socket, Subscription
from tocsin.clock import Clock
from tocsin.engines.embedded.chats import Chat, Chats
from tocsin.engines.embedded.expiries import Expiries
from tocsin.engines.embedded.fan_out import FanOut
from tocsin.engines.embedded.room import HubConnection, Listener
from tocsin.engines.embedded.sqlite_messages import SqliteMessages
from tocsin.engines.embedded.sqlite_permissions import SqlitePermissions
from tocsin.errors import CloseCode, Refusal, forbidden
from tocsin.failpoints import Failpoints
from tocsin.identity import Identity
from tocsin.message import Message
from tocsin.metrics import Metrics
from tocsin.roles import Role, may_read


class Hub:
    """Connections and Clients of the embedded engine."""

    def __init__(
        self,
        *,
        frame: Callable[[bytes], bytes],
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
        connections_per_user: int,
        chats_per_connection: int,
    ) -> None:
        """`frame` makes a payload a WebSocket frame."""
        self._fan_out = FanOut(frame=frame, clock=clock, metrics=metrics, failpoints=failpoints)
        self._clock = clock
        self._metrics = metrics
        self._connections_per_user = connections_per_user
        self._chats_per_connection = chats_per_connection
        self._connections: dict[str, HubConnection] = {}
        #: A user's only connection, or all of them: most have one.
        self._by_user: dict[str, HubConnection | set[HubConnection]] = {}
        self._expiries = Expiries()
        self._subscriptions = 0
        self.chats: Chats
        self.messages: SqliteMessages
        self.permissions: SqlitePermissions

    # -- Connections ---------------------------------------------------------------------------------------------------

    async def open(self, connection: Connection) -> None:
        self.enter(connection)

    def enter(self, connection: Connection) -> HubConnection:
        user_id = connection.identity.user_id
        mine = self._of_user(user_id)
        if len(mine) >= self._connections_per_user:
            raise Refusal(
                "rate_limited", f"A user may have {self._connections_per_user} connections open.", retry_after=10
            )
        entry = HubConnection(connection)
        kept = self._by_user.get(user_id)
        if isinstance(kept, set):
            kept.add(entry)
        else:
            self._by_user[user_id] = entry if kept is None else {kept, entry}
        self._connections[connection.connection_id] = entry
        self._expiries.enter(entry)
        self._metrics.count("connects")
        self._metrics.gauge("connections", len(self._connections))
        return entry

    def _of_user(self, user_id: str) -> Collection[HubConnection]:
        kept = self._by_user.get(user_id)
        if kept is None:
            return ()
        return kept if isinstance(kept, set) else (kept,)

    def attach(self, connection_id: str, socket: Socket) -> None:
        """Gives the connection its socket, before anything is sent to it."""
        entry = self._connections.get(connection_id)
        if entry is None:  # its token ended while it was let in
            socket.close(CloseCode.UNAUTHORIZED, "token expired")
            return
        entry.socket = socket
        if entry.warned_for:  # when it could not hear yet
            entry.warned_for = 0
            self._expiries.enter(entry)

    async def get(self, connection_id: str) -> Connection | None:
        entry = self._connections.get(connection_id)
        return None if entry is None else self._record(entry)

    def _record(self, entry: HubConnection) -> Connection:
        idle = 0.0 if entry.socket is None else self._clock.monotonic() - entry.socket.last_active
        return entry.record(self._clock.now() - max(0, round(idle * 1000)))

    async def refresh(self, connection_id: str, identity: Identity) -> None:
        entry = self._connections.get(connection_id)
        if entry is not None:
            entry.identity = identity
            self._expiries.enter(entry)

    async def close(self, connection_ids: Collection[str]) -> None:
        for connection_id in connection_ids:
            self.forget(connection_id)

    def forget(self, connection_id: str) -> None:
        entry = self._connections.pop(connection_id, None)
        if entry is None:
            return
        user_id = entry.identity.user_id
        kept = self._by_user[user_id]
        if isinstance(kept, set):
            kept.discard(entry)
        if not kept or kept is entry:
            del self._by_user[user_id]
        for listener in entry.listeners():
            self._remove(listener)
        self._expiries.leave(entry)
        entry.is_gone = True
        if entry.drained is not None:
            entry.drained.set()
        self._metrics.count("disconnects")
        self._metrics.gauge("connections", len(self._connections))

    async def expiring(self, now: int) -> Sequence[Connection]:
        return [self._record(entry) for entry in self._expiries.due(now)]

    # -- subscriptions -------------------------------------------------------------------------------------------------

    async def subscribe(self, connection_id: str, chat_ids: Sequence[str]) -> Sequence[Subscription | Refusal]:
        entry = self._connections.get(connection_id)
        if entry is None:
            return [Refusal("gone", "The connection is gone.", chat_id=chat_id) for chat_id in chat_ids]
        pairs = [(entry.identity.user_id, chat_id) for chat_id in chat_ids]
        roles = await self.permissions.roles(pairs)
        # What a stranger asks for in vain is not even looked up.
        chats = [
            await self.messages.find(chat_id) if _may_hear(entry.identity, chat_id, role) else None
            for chat_id, role in zip(chat_ids, roles, strict=True)
        ]
        roles = await self.permissions.roles(pairs)
        # From here to the end nothing waits: what was checked is what is subscribed.
        return [
            self._join(entry, chat_id, chat, role) for chat_id, chat, role in zip(chat_ids, chats, roles, strict=True)
        ]

    def _join(self, entry: HubConnection, chat_id: str, chat: Chat | None, role: Role | None) -> Subscription | Refusal:
        if entry.is_gone:
            return Refusal("gone", "The connection is gone.", chat_id=chat_id)
        if chat is None or not _may_hear(entry.identity, chat_id, role):
            return forbidden(chat_id)
        old = entry.find(chat_id)
        if old is not None:
            self._end(old)
        elif entry.count >= self._chats_per_connection:
            return Refusal(
                "invalid_argument",
                f"A connection may listen to {self._chats_per_connection} chats.",
                field="chatId",
                chat_id=chat_id,
            )
        room = self._fan_out.enter(chat_id, (self.chats.get(chat_id) or chat).sequence)
        listener = Listener(entry, room)
        listener.missed_unnumbered = room.unnumbered
        room.pending.add(listener)
        entry.add(listener)
        self._count_subscriptions(1)
        return listener

    async def is_live(self, connection_id: str, chat_id: str) -> bool:
        entry = self._connections.get(connection_id)
        listener = None if entry is None else entry.find(chat_id)
        return listener is not None and listener not in listener.room.pending

    async def stands(self, subscription: Subscription) -> bool:
        assert isinstance(subscription, Listener)
        return subscription in subscription.room.pending

    async def go_live(self, subscription: Subscription, delivered: int) -> int | None:
        assert isinstance(subscription, Listener)
        room = subscription.room
        if subscription not in room.pending:
            return None  # it left meanwhile
        self._fan_out.flush(room)
        if subscription.held is None and room.cursor > delivered:
            subscription.held = []
            subscription.held_bytes = 0
            return room.cursor
        room.pending.discard(subscription)
        if subscription.held:
            self._fan_out.write(subscription.connection, b"".join(subscription.held))
        subscription.held = None
        subscription.floor = delivered
        room.let_in(subscription)
        return None

    async def leave(self, connection_id: str, chat_id: str) -> bool:
        entry = self._connections.get(connection_id)
        listener = None if entry is None else entry.find(chat_id)
        if listener is None:
            return False
        self._end(listener)
        return True

    async def revoke(self, user_id: str, chat_id: str) -> Sequence[str]:
        listeners = [listener for entry in self._of_user(user_id) if (listener := entry.find(chat_id)) is not None]
        for listener in listeners:
            self._end(listener)
        return [listener.connection_id for listener in listeners]

    def _end(self, listener: Listener) -> None:
        """The end of a subscription, behind what was due before."""
        self._fan_out.flush(listener.room)
        self._fan_out.tell_missed(listener)
        self._remove(listener)

    def _remove(self, listener: Listener) -> None:
        self._fan_out.leave(listener)
        listener.connection.remove(listener)
        self._count_subscriptions(-1)

    def _count_subscriptions(self, more: int) -> None:
        self._subscriptions += more
        self._metrics.gauge("subscriptions", self._subscriptions)

    async def audience(self, chat_ids: Collection[str]) -> Mapping[str, Listeners]:
        rooms = self._fan_out.rooms
        if len(rooms) < len(chat_ids):
            return {chat_id: room for chat_id, room in rooms.items() if chat_id in chat_ids}
        return {chat_id: room for chat_id in chat_ids if (room := rooms.get(chat_id)) is not None}

    # -- Clients -------------------------------------------------------------------------------------------------------

    async def deliver(self, audience: Mapping[str, Listeners], messages: Sequence[Message]) -> Collection[str]:
        await self._fan_out.deliver(audience, messages)
        return ()

    async def skipped(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._fan_out.skip(message)

    def skip(self, message: Message) -> None:
        self._fan_out.skip(message)

    def settled(self, messages: Sequence[Message]) -> None:
        """The queue is done with these: they do not come again."""
        self._fan_out.settled(messages)

    async def send(self, connection_id: str, payloads: Sequence[bytes]) -> bool:
        entry = self._connections.get(connection_id)
        if entry is None or entry.socket is None:
            return False
        frame = self._fan_out.frame
        entry.socket.write(b"".join([frame(payload) for payload in payloads]))
        return True

    async def drained(self, connection_id: str) -> bool:
        entry = self._connections.get(connection_id)
        if entry is None:
            return False
        while entry.is_stalled and not entry.is_gone:
            if entry.drained is None:
                entry.drained = asyncio.Event()
            await entry.drained.wait()
        return not entry.is_gone

    async def disconnect(self, connection_id: str, code: int, reason: str = "") -> bool:
        entry = self._connections.get(connection_id)
        if entry is None:
            return False
        for listener in entry.listeners():
            self._fan_out.flush(listener.room)
        if entry.socket is not None:
            entry.socket.close(code, reason)
        self.forget(connection_id)
        return True

    def flush(self) -> None:
        """Writes what every room has gathered: the service is about to stop."""
        self._fan_out.flush_all()

    async def stop(self) -> None:
        await self._fan_out.stop()

    # -- slow readers --------------------------------------------------------------------------------------------------

    def stalled(self, connection_id: str) -> None:
        """Its socket takes no more: it is set aside in its rooms."""
        entry = self._connections.get(connection_id)
        if entry is None or entry.is_stalled:
            return
        entry.is_stalled = True
        for listener in entry.listeners():
            listener.room.set_aside(listener)

    def resumed(self, connection_id: str) -> None:
        """Its socket takes more again: first of all it is told what it missed."""
        entry = self._connections.get(connection_id)
        if entry is None or not entry.is_stalled:
            return
        entry.is_stalled = False
        for listener in entry.listeners():
            if entry.is_stalled:
                return  # that was all it could take
            self._fan_out.flush(listener.room)
            self._fan_out.tell_missed(listener)
        if entry.drained is not None:
            entry.drained.set()
            entry.drained = None


def _may_hear(identity: Identity, chat_id: str, role: Role | None) -> bool:
    allowed = may_read(identity.user_id, chat_id, role) or "messages:read" in identity.scopes
    return allowed and (identity.chat_ids is None or chat_id in identity.chat_ids)
