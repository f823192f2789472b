"""A room: the listeners of one chat, and where each stands.

A listener is in exactly one of four sets:
- `pending`: it gets its replay; plain messages at once, numbered ones when it goes live (`held`, once that is near);
- `ahead`: its replay went beyond the room's cursor; it is live above `floor`;
- `members`: it gets what the room writes;
- `aside`: it can't take more; what it misses is counted by where it stood when it was set aside.
"""

import asyncio
from collections.abc import Iterator
from typing import Final

from tocsin.clients import Connection, Socket
from tocsin.identity import Identity

MAX_HELD_BYTES: Final = 1024 * 1024


class HubConnection:
    """A connection as the hub keeps it: small, because there are many and most are idle."""

    __slots__ = (
        "_connection",
        "_listeners",
        "drained",
        "expires_in",
        "identity",
        "is_gone",
        "is_stalled",
        "socket",
        "warned_for",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.identity: Identity = connection.identity
        self.socket: Socket | None = None
        #: None, the only one, or all by chat: most connections listen to one chat.
        self._listeners: Listener | dict[str, Listener] | None = None
        self.is_stalled = False
        self.is_gone = False
        self.drained: asyncio.Event | None = None
        #: The second in which its token's end is looked at next.
        self.expires_in = 0
        #: The token's end for which it has had its tokenExpiring.
        self.warned_for = 0

    def record(self, last_active_at: int) -> Connection:
        kept = self._connection
        return Connection(
            connection_id=kept.connection_id,
            identity=self.identity,
            source_ip=kept.source_ip,
            user_agent=kept.user_agent,
            connected_at=kept.connected_at,
            last_active_at=last_active_at,
        )

    @property
    def connection_id(self) -> str:
        return self._connection.connection_id

    def find(self, chat_id: str) -> "Listener | None":
        listeners = self._listeners
        if isinstance(listeners, dict):
            return listeners.get(chat_id)
        return listeners if listeners is not None and listeners.room.chat_id == chat_id else None

    def add(self, listener: "Listener") -> None:
        listeners = self._listeners
        if listeners is None:
            self._listeners = listener
        elif isinstance(listeners, dict):
            listeners[listener.chat_id] = listener
        else:
            self._listeners = {listeners.chat_id: listeners, listener.chat_id: listener}

    def remove(self, listener: "Listener") -> None:
        listeners = self._listeners
        if isinstance(listeners, dict):
            if listeners.get(listener.chat_id) is listener:
                del listeners[listener.chat_id]
        elif listeners is listener:
            self._listeners = None

    def listeners(self) -> "list[Listener]":
        listeners = self._listeners
        if listeners is None:
            return []
        return list(listeners.values()) if isinstance(listeners, dict) else [listeners]

    @property
    def count(self) -> int:
        listeners = self._listeners
        return len(listeners) if isinstance(listeners, dict) else int(listeners is not None)


class Listener:
    """One connection's subscription to one chat."""

    __slots__ = ("connection", "floor", "held", "held_bytes", "missed_from", "missed_unnumbered", "room")

    def __init__(self, connection: HubConnection, room: "Room") -> None:
        self.connection = connection
        self.room = room
        self.floor = 0
        #: Frames that came while the last of the replay was read; None: nothing is held back yet.
        self.held: list[bytes] | None = None
        self.held_bytes = 0
        self.missed_from = 0
        self.missed_unnumbered = 0

    @property
    def connection_id(self) -> str:
        return self.connection.connection_id

    @property
    def chat_id(self) -> str:
        return self.room.chat_id


class Room:
    __slots__ = (
        "ahead",
        "aside",
        "chat_id",
        "cursor",
        "gathered",
        "gathered_bytes",
        "is_waiting",
        "members",
        "pending",
        "unnumbered",
        "written_at",
        "written_cursor",
        "written_unnumbered",
    )

    def __init__(self, chat_id: str, cursor: int) -> None:
        self.chat_id: Final = chat_id
        #: The last number that was handed over, and how many messages without one.
        self.cursor = cursor
        self.unnumbered = 0
        #: The same as of the last write: what the members have been given.
        self.written_cursor = cursor
        self.written_unnumbered = 0
        self.members: set[Listener] = set()
        self.pending: set[Listener] = set()
        self.ahead: set[Listener] = set()
        self.aside: set[Listener] = set()
        self.gathered: list[bytes] = []
        self.gathered_bytes = 0
        self.is_waiting = False
        self.written_at = 0.0

    @property
    def is_empty(self) -> bool:
        return not (self.members or self.pending or self.ahead or self.aside)

    def gather(self, frame: bytes) -> None:
        self.gathered.append(frame)
        self.gathered_bytes += len(frame)

    def snapshot(self) -> Iterator[Listener]:
        """The members as they are now: a write may set one of them aside."""
        return iter(tuple(self.members))

    def hold(self, listener: Listener, frame: bytes) -> None:
        """Keeps a frame until the listener goes live; beyond the bound it is read from the store after all."""
        if listener.held is None:
            return
        listener.held.append(frame)
        listener.held_bytes += len(frame)
        if listener.held_bytes > MAX_HELD_BYTES:
            listener.held, listener.held_bytes = None, 0

    def discard(self, listener: Listener) -> None:
        self.members.discard(listener)
        self.pending.discard(listener)
        self.ahead.discard(listener)
        self.aside.discard(listener)

    def set_aside(self, listener: Listener) -> None:
        """It takes no more: what comes from now on, it misses. (A pending one goes on with its replay when it can.)"""
        if listener in self.aside:
            return
        if listener in self.members:
            self.members.discard(listener)
            listener.missed_from = self.written_cursor + 1
            listener.missed_unnumbered = self.written_unnumbered
            self.aside.add(listener)
        elif listener in self.ahead:
            self.ahead.discard(listener)
            listener.missed_from = max(listener.floor, self.cursor) + 1
            listener.missed_unnumbered = self.unnumbered
            self.aside.add(listener)
        else:
            listener.missed_unnumbered = self.unnumbered

    def let_in(self, listener: Listener) -> None:
        """It has everything up to its floor and up to the cursor, and goes on from there."""
        if listener.connection.is_stalled:
            listener.missed_from = max(listener.floor, self.cursor) + 1
            self.aside.add(listener)
        else:
            (self.members if self.cursor >= listener.floor else self.ahead).add(listener)

    def take_back(self, listener: Listener) -> tuple[int | None, int, int]:
        """What it missed: first and last number (None: no number), and how many without one. It misses no more."""
        if listener not in self.aside and listener not in self.pending:
            return None, 0, 0
        unnumbered = self.unnumbered - listener.missed_unnumbered
        listener.missed_unnumbered = self.unnumbered
        if listener in self.pending:
            return None, 0, unnumbered
        self.aside.discard(listener)
        (self.members if self.cursor >= listener.floor else self.ahead).add(listener)
        first = listener.missed_from if self.cursor >= listener.missed_from else None
        return first, self.cursor, unnumbered
