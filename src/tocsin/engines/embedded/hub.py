"""The hub: every open connection, what it listens to, and the one write by which it hears many messages.

    processor -> deliver -> a room (chat) -> its listeners' sockets
    connection_handler -> open, subscribe, go_live

Rules:
- a message is encoded once; a room that was silent is written at once, one that has just written gathers, and all its
  listeners get the same joined bytes in one write;
- a room has a cursor, the last number that it was handed: what is not above it was delivered before;
- what was gathered is flushed before anybody joins, leaves or is revoked;
- nothing here waits: a listener that can't take more is set aside, and told by `gap` when it can.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from tocsin.clients import EXPIRY_WARNING_MILLISECONDS, Connection, Listeners, Socket, Subscription
from tocsin.clock import Clock
from tocsin.engines.embedded.chats import Chat, Chats
from tocsin.engines.embedded.room import HubConnection, Listener, Room
from tocsin.engines.embedded.sqlite_messages import SqliteMessages
from tocsin.engines.embedded.sqlite_permissions import SqlitePermissions
from tocsin.errors import Refusal, forbidden
from tocsin.failpoints import Failpoints
from tocsin.identity import Identity
from tocsin.message import Message
from tocsin.metrics import Metrics
from tocsin.roles import Role, may_read

#: Seconds between two writes of a busy room; longer when the hub is.
PACE_SECONDS: Final = 0.010
MAX_PACE_SECONDS: Final = 0.050
SWEEP_SECONDS: Final = 0.002


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
        self._frame = frame
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints
        self._connections_per_user = connections_per_user
        self._chats_per_connection = chats_per_connection
        self._connections: dict[str, HubConnection] = {}
        #: A user's only connection, or all of them: most have one.
        self._by_user: dict[str, HubConnection | set[HubConnection]] = {}
        self._rooms: dict[str, Room] = {}
        self._gathering: list[Room] = []
        self._pace = PACE_SECONDS
        self._sweeper: asyncio.Task[None] | None = None
        #: second -> connections whose token ends, or is about to, within it; each stands in one.
        self._expiries: dict[int, set[HubConnection]] = {}
        #: Unnumbered messages that were delivered and that their queue still holds.
        self._unsettled: set[str] = set()
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
        self._await_expiry(entry, entry.identity.expires_at - EXPIRY_WARNING_MILLISECONDS)
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
        if entry is not None:
            entry.socket = socket

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
            self._await_expiry(entry, identity.expires_at - EXPIRY_WARNING_MILLISECONDS)

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
        self._leave_expiries(entry)
        entry.is_gone = True
        if entry.drained is not None:
            entry.drained.set()
        self._metrics.count("disconnects")
        self._metrics.gauge("connections", len(self._connections))

    async def expiring(self, now: int) -> Sequence[Connection]:
        found = []
        for second in [second for second in self._expiries if second * 1000 <= now]:
            for entry in list(self._expiries[second]):
                ends = entry.identity.expires_at
                if now >= ends:
                    self._leave_expiries(entry)
                    found.append(self._record(entry))
                    continue
                self._await_expiry(entry, ends)
                if entry.warned_for != ends:
                    entry.warned_for = ends
                    found.append(self._record(entry))
        return found

    def _await_expiry(self, entry: HubConnection, at: int) -> None:
        """`at` in milliseconds; never early."""
        self._leave_expiries(entry)
        entry.expires_in = -(-at // 1000)
        self._expiries.setdefault(entry.expires_in, set()).add(entry)

    def _leave_expiries(self, entry: HubConnection) -> None:
        bucket = self._expiries.get(entry.expires_in)
        if bucket is not None:
            bucket.discard(entry)
            if not bucket:
                del self._expiries[entry.expires_in]

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
        room = self._rooms.get(chat_id)
        if room is None:
            room = self._rooms[chat_id] = Room(chat_id, (self.chats.get(chat_id) or chat).sequence)
        listener = Listener(entry, room)
        listener.missed_unnumbered = room.unnumbered
        room.pending.add(listener)
        entry.add(listener)
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
        self._flush(room)
        if subscription.held is None and room.cursor > delivered:
            subscription.held = []
            subscription.held_bytes = 0
            return room.cursor
        room.pending.discard(subscription)
        if subscription.held:
            self._write(subscription.connection, b"".join(subscription.held))
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

    async def of_user(self, user_id: str, chat_id: str) -> Sequence[str]:
        return [entry.connection_id for entry in self._of_user(user_id) if entry.find(chat_id) is not None]

    def _end(self, listener: Listener) -> None:
        """The end of a subscription, behind what was due before."""
        self._flush(listener.room)
        self._tell_missed(listener)
        self._remove(listener)

    def _remove(self, listener: Listener) -> None:
        room = listener.room
        room.discard(listener)
        listener.connection.remove(listener)
        if room.is_empty:
            room.gathered.clear()
            if self._rooms.get(room.chat_id) is room:
                del self._rooms[room.chat_id]

    async def audience(self, chat_ids: Collection[str]) -> Mapping[str, Listeners]:
        rooms = self._rooms
        if len(rooms) < len(chat_ids):
            return {chat_id: room for chat_id, room in rooms.items() if chat_id in chat_ids}
        return {chat_id: room for chat_id in chat_ids if (room := rooms.get(chat_id)) is not None}

    # -- Clients -------------------------------------------------------------------------------------------------------

    async def deliver(self, audience: Mapping[str, Listeners], messages: Sequence[Message]) -> Collection[str]:
        touched: dict[Room, None] = {}
        try:
            delivered = await self._gather(audience, messages, touched)
        finally:
            self._pace_rooms(touched)
        if delivered:
            self._metrics.count("deliveries", delivered)
        return ()

    async def _gather(
        self, audience: Mapping[str, Listeners], messages: Sequence[Message], touched: dict[Room, None]
    ) -> int:
        """Hands each message to its room; how many deliveries that makes."""
        delivered = 0
        for message in messages:
            room = audience.get(message.chat_id)
            if room is None:
                continue
            assert isinstance(room, Room)
            if self._failpoints.armed:
                await self._failpoints.reach("processor.mid_fanout", [message])
            number = message.sequence_number
            if number is not None:
                if number <= room.cursor:
                    continue
                if number > room.cursor + 1:
                    self._tell_hole(room, number)
                room.cursor = number
            elif message.message_id in self._unsettled:
                continue
            else:
                self._unsettled.add(message.message_id)
                room.unnumbered += 1
            frame = self._frame(message.frame())
            room.gather(frame)
            touched[room] = None
            delivered += len(room.members)
            if room.pending or room.ahead:
                self._deliver_apart(room, number, frame)
        return delivered

    def _pace_rooms(self, rooms: Iterable[Room]) -> None:
        """Those that were silent are written at once, the others when their pace has come."""
        now = self._clock.monotonic()
        for room in rooms:
            if room.gathered_bytes > MAX_GATHERED_BYTES or now - room.written_at >= self._pace:
                self._write_room(room)
            elif not room.is_waiting:
                room.is_waiting = True
                self._gathering.append(room)
                if self._sweeper is None:
                    self._sweeper = asyncio.create_task(self._sweep(), name="hub-sweep")

    def _deliver_apart(self, room: Room, number: int | None, frame: bytes) -> None:
        """To those who are not yet live: plain messages at once, numbered ones when their turn comes."""
        for listener in list(room.pending):
            if number is not None:
                room.hold(listener, frame)
            elif not listener.connection.is_stalled:
                self._write(listener.connection, frame)
        for listener in list(room.ahead):
            if number is None or number > listener.floor:
                self._write(listener.connection, frame)
            if room.cursor >= listener.floor:
                # What the room has gathered it has had, or has just been given.
                self._write_room(room)
                if listener in room.ahead:
                    room.ahead.discard(listener)
                    room.members.add(listener)

    def _tell_hole(self, room: Room, number: int) -> None:
        """Numbers that died before they got here: they are in history, and never come by themselves."""
        self._flush(room)
        first, last = room.cursor + 1, number - 1
        room.cursor = room.written_cursor = last
        gap = self._frame(_gap(room.chat_id, first, last, 0))
        for listener in tuple(room.members):
            self._write(listener.connection, gap)
        for listener in tuple(room.ahead):
            if listener.floor < last:
                beyond = max(first, listener.floor + 1)
                self._write(listener.connection, self._frame(_gap(room.chat_id, beyond, last, 0)))
        for listener in room.pending:
            room.hold(listener, gap)

    def skip(self, message: Message) -> None:
        """A message is dead: its listeners are told, and the room goes on behind it."""
        room = self._rooms.get(message.chat_id)
        number = message.sequence_number
        if room is None:
            return
        if number is not None:
            if number > room.cursor:
                self._tell_hole(room, number + 1)
        elif message.message_id not in self._unsettled:
            self._flush(room)
            room.unnumbered = room.written_unnumbered = room.unnumbered + 1
            gap = self._frame(_gap(room.chat_id, None, 0, 1))
            for listener in (*room.members, *room.ahead, *room.pending):
                if not listener.connection.is_stalled:
                    self._write(listener.connection, gap)

    async def skipped(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.skip(message)

    def settled(self, messages: Sequence[Message]) -> None:
        """The queue is done with these: they do not come again."""
        if self._unsettled:
            self._unsettled.difference_update([message.message_id for message in messages])

    async def send(self, connection_id: str, payloads: Sequence[bytes]) -> bool:
        entry = self._connections.get(connection_id)
        if entry is None or entry.socket is None:
            return False
        frame = self._frame
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
        self._flush_all(entry)
        if entry.socket is not None:
            entry.socket.close(code, reason)
        self.forget(connection_id)
        return True

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, entry: HubConnection, frames: bytes) -> None:
        if entry.socket is not None:
            entry.socket.write(frames)

    def _flush(self, room: Room) -> None:
        if room.gathered:
            self._write_room(room)

    def _flush_all(self, entry: HubConnection) -> None:
        for listener in entry.listeners():
            self._flush(listener.room)

    def _write_room(self, room: Room) -> None:
        gathered = room.gathered
        frames = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        room.gathered_bytes = 0
        room.written_cursor, room.written_unnumbered = room.cursor, room.unnumbered
        for listener in room.snapshot():
            listener.connection.socket.write(frames)  # type: ignore[union-attr]
        room.written_at = self._clock.monotonic()

    async def _sweep(self) -> None:
        try:
            while self._gathering:
                await self._clock.sleep(SWEEP_SECONDS)
                self._sweep_rooms()
        finally:
            self._sweeper = None

    def _sweep_rooms(self) -> None:
        """Writes the rooms whose pace has come; when that takes over half the sweep's time, everyone gathers longer."""
        began = self._clock.monotonic()
        waiting, self._gathering = self._gathering, []
        for room in waiting:
            if not room.gathered:
                room.is_waiting = False
            elif began - room.written_at >= self._pace:
                room.is_waiting = False
                self._write_room(room)
            else:
                self._gathering.append(room)
        took = self._clock.monotonic() - began
        if took > SWEEP_SECONDS / 2:
            self._pace = min(MAX_PACE_SECONDS, max(self._pace * 1.25, 2 * took))
        else:
            self._pace = max(PACE_SECONDS, self._pace * 0.95)

    def flush(self) -> None:
        """Writes what every room has gathered: the service is about to stop."""
        for room in self._gathering:
            self._flush(room)

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

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
            self._flush(listener.room)
            self._tell_missed(listener)
        if entry.drained is not None:
            entry.drained.set()
            entry.drained = None

    def _tell_missed(self, listener: Listener) -> None:
        room = listener.room
        first, last, unnumbered = room.take_back(listener)
        if first is not None or unnumbered:
            self._metrics.count("drops", unnumbered + (0 if first is None else last - first + 1))
            self._write(listener.connection, self._frame(_gap(room.chat_id, first, last, unnumbered)))

    @property
    def connection_ids(self) -> Iterable[str]:
        return list(self._connections)


MAX_GATHERED_BYTES: Final = 256 * 1024


def _may_hear(identity: Identity, chat_id: str, role: Role | None) -> bool:
    allowed = may_read(identity.user_id, chat_id, role) or "messages:read" in identity.scopes
    return allowed and (identity.chat_ids is None or chat_id in identity.chat_ids)


def _gap(chat_id: str, first: int | None, last: int, unnumbered: int) -> bytes:
    numbers = "" if first is None else f',"from":{first},"to":{last}'
    plain = f',"unnumbered":{unnumbered}' if unnumbered else ""
    return f'{{"type":"gap","chatId":"{chat_id}"{numbers}{plain}}}'.encode()
