"""The one write by which a room hears many messages.

    Hub.deliver -> gather -> a silent room is written at once, a busy one when its pace has come -> its members' sockets

Rules:
- a message is encoded once; a room that has just written gathers, and all its members get the same joined bytes in one
  write (each message still a frame of its own);
- a room has a cursor, the last number that it was handed: what is not above it was delivered before; a hole in the
  numbers is told by `gap`;
- nothing here waits: a listener that can't take more is set aside.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from tocsin.clients import Listeners, gap_frame
from tocsin.clock import Clock
from tocsin.engines.embedded.room import HubConnection, Listener, Room
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.metrics import Metrics

#: Seconds between two writes of a busy room; longer when the hub is.
PACE_SECONDS: Final = 0.010
MAX_PACE_SECONDS: Final = 0.050
SWEEP_SECONDS: Final = 0.002
#: A room that has gathered so much is written before its time.
MAX_GATHERED_BYTES: Final = 256 * 1024


class FanOut:
    def __init__(
        self, *, frame: Callable[[bytes], bytes], clock: Clock, metrics: Metrics, failpoints: Failpoints
    ) -> None:
        """`frame` makes a payload a WebSocket frame."""
        self.frame: Final = frame
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints
        self.rooms: Final[dict[str, Room]] = {}
        self._gathering: list[Room] = []
        self._pace = PACE_SECONDS
        #: What was written in this turn of the loop, and when the first of it was.
        self._written: list[Room] = []
        self._writing_since = 0.0
        self._sweeper: asyncio.Task[None] | None = None
        #: Unnumbered messages that were delivered and that their queue still holds.
        self._unsettled: set[str] = set()

    def enter(self, chat_id: str, head: int) -> Room:
        """The chat's room; a new one stands at `head`."""
        room = self.rooms.get(chat_id)
        if room is None:
            room = self.rooms[chat_id] = Room(chat_id, head)
        return room

    def leave(self, listener: Listener) -> None:
        room = listener.room
        room.discard(listener)
        if room.is_empty:
            room.gathered.clear()
            if self.rooms.get(room.chat_id) is room:
                del self.rooms[room.chat_id]

    async def deliver(self, audience: Mapping[str, Listeners], messages: Sequence[Message]) -> None:
        touched: dict[Room, None] = {}
        try:
            delivered = await self._gather(audience, messages, touched)
        finally:
            self._pace_rooms(touched)
        if delivered:
            self._metrics.count("deliveries", delivered)

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
            frame = self.frame(message.frame())
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
                self.write(listener.connection, frame)
        for listener in list(room.ahead):
            if number is None or number > listener.floor:
                self.write(listener.connection, frame)
            if room.cursor >= listener.floor:
                # What the room has gathered it has had, or has just been given.
                self._write_room(room)
                if listener in room.ahead:
                    room.ahead.discard(listener)
                    room.members.add(listener)

    def _tell_hole(self, room: Room, number: int) -> None:
        """Numbers that died before they got here: they are in history, and never come by themselves."""
        self.flush(room)
        first, last = room.cursor + 1, number - 1
        room.cursor = room.written_cursor = last
        frame = self.frame(gap_frame(room.chat_id, first, last, 0))
        for listener in tuple(room.members):
            self.write(listener.connection, frame)
        for listener in tuple(room.ahead):
            if listener.floor < last:
                beyond = max(first, listener.floor + 1)
                self.write(listener.connection, self.frame(gap_frame(room.chat_id, beyond, last, 0)))
        for listener in room.pending:
            room.hold(listener, frame)

    def skip(self, message: Message) -> None:
        """A message is dead: its listeners are told, and the room goes on behind it."""
        room = self.rooms.get(message.chat_id)
        number = message.sequence_number
        if room is None:
            return
        if number is not None:
            if number > room.cursor:
                self._tell_hole(room, number + 1)
        elif message.message_id not in self._unsettled:
            self.flush(room)
            room.unnumbered = room.written_unnumbered = room.unnumbered + 1
            frame = self.frame(gap_frame(room.chat_id, None, 0, 1))
            for listener in (*room.members, *room.ahead, *room.pending):
                if not listener.connection.is_stalled:
                    self.write(listener.connection, frame)

    def settled(self, messages: Sequence[Message]) -> None:
        """The queue is done with these: they do not come again."""
        if self._unsettled:
            self._unsettled.difference_update([message.message_id for message in messages])

    def tell_missed(self, listener: Listener) -> None:
        room = listener.room
        first, last, unnumbered = room.take_back(listener)
        if first is not None or unnumbered:
            self._metrics.count("drops", unnumbered + (0 if first is None else last - first + 1))
            self.write(listener.connection, self.frame(gap_frame(room.chat_id, first, last, unnumbered)))

    def write(self, entry: HubConnection, frames: bytes) -> None:
        if entry.socket is not None:
            entry.socket.write(frames)

    def flush(self, room: Room) -> None:
        if room.gathered:
            self._write_room(room)

    def _write_room(self, room: Room) -> None:
        gathered = room.gathered
        frames = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        room.gathered_bytes = 0
        room.written_cursor, room.written_unnumbered = room.cursor, room.unnumbered
        room.written_at = self._clock.monotonic()
        if not self._written:
            self._writing_since = room.written_at
            asyncio.get_running_loop().call_soon(self._handed_over)
        self._written.append(room)
        for listener in room.snapshot():
            listener.connection.socket.write(frames)  # type: ignore[union-attr]

    def _handed_over(self) -> None:
        """A transport sends at the end of the loop's turn: only now is it known how long that took. A room's silence
        begins here, and lasts as long at least, or the hub would do nothing but send; it grows at once and shrinks
        slowly, because one turn says little of the next."""
        now = self._clock.monotonic()
        for room in self._written:
            room.written_at = now
        self._written.clear()
        took = now - self._writing_since
        self._pace = min(MAX_PACE_SECONDS, max(PACE_SECONDS, took, 0.9 * self._pace))

    async def _sweep(self) -> None:
        try:
            while self._gathering:
                await self._clock.sleep(SWEEP_SECONDS)
                self._sweep_rooms()
        finally:
            self._sweeper = None

    def _sweep_rooms(self) -> None:
        """Writes the rooms whose pace has come."""
        now = self._clock.monotonic()
        waiting, self._gathering = self._gathering, []
        for room in waiting:
            if not room.gathered:
                room.is_waiting = False
            elif now - room.written_at >= self._pace:
                room.is_waiting = False
                self._write_room(room)
            else:
                self._gathering.append(room)

    def flush_all(self) -> None:
        """Writes what every room has gathered: the service is about to stop."""
        for room in self._gathering:
            self.flush(room)

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
