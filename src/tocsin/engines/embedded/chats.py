"""What the process remembers of each chat: its numbers, and which of its messages only the log has.

Rules:
- `sequence` and `ordinal` move only after a commit; `drawn_*` are what the commit in flight has drawn;
- a chat with unmoved messages is never forgotten; the others are, oldest first, beyond a bound.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

#: A place is `key << ORDINAL_BITS | ordinal`, in SQLite's signed 64 bits: 134 million chats, and in each 68 thousand
#: million messages (twenty days of 40,000 a second). schema.sql and queries.sql have the same figure.
ORDINAL_BITS: Final = 36
MAX_KEY: Final = (1 << (63 - ORDINAL_BITS)) - 1
ORDINAL_MASK: Final = (1 << ORDINAL_BITS) - 1


#: A row of the log as memory knows it: position, place, sequence, timestamp.
Row = tuple[int, int, int | None, int]


class Unmoved:
    """A chat's messages that stand in the log and not yet in message_storage, in their order.

    Flat, four numbers each (sequence 0: none): there can be half a million, few are ever looked at, and a collection of
    garbage would have to walk over as many tuples.
    """

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._numbers) // 4

    def append(self, position: int, place: int, sequence: int | None, timestamp: int) -> None:
        self._numbers.extend((position, place, sequence or 0, timestamp))

    def __iter__(self) -> Iterator[Row]:
        return self._rows(range(0, len(self._numbers), 4))

    def __reversed__(self) -> Iterator[Row]:
        return self._rows(range(len(self._numbers) - 4, -1, -4))

    def _rows(self, starts: range) -> Iterator[Row]:
        numbers = self._numbers
        for at in starts:
            yield numbers[at], numbers[at + 1], numbers[at + 2] or None, numbers[at + 3]

    @property
    def oldest(self) -> int:
        """The first one's timestamp; there must be one."""
        return self._numbers[3]

    def positions(self, upto: int) -> list[int]:
        """Those of the log that are not beyond `upto`."""
        positions = self._numbers[::4]
        return positions[: bisect_right(positions, upto)].tolist()

    def drop(self, count: int) -> None:
        """The first so many have been moved."""
        del self._numbers[: 4 * count]


class Chat:
    __slots__ = (
        "base",
        "chat_id",
        "drawn_ordinal",
        "drawn_sequence",
        "key",
        "oldest",
        "oldest_at",
        "ordinal",
        "sequence",
        "unmoved",
    )

    def __init__(self, chat_id: str, key: int = 0, sequence: int = 0, ordinal: int = 0) -> None:
        self.chat_id = chat_id
        self.base = 0
        self.give_key(key)
        self.sequence = self.drawn_sequence = sequence
        self.ordinal = self.drawn_ordinal = ordinal
        #: The oldest number that has not expired and its timestamp; 0: not looked up yet; None: there is none.
        self.oldest = 0 if sequence else 1
        self.oldest_at: int | None = None
        #: What only the log has, in order.
        self.unmoved = Unmoved()

    def give_key(self, key: int) -> None:
        """Its key in the store; 0: nobody has published there, and the store does not know it."""
        self.key = key
        self.base = key << ORDINAL_BITS


class Chats:
    """The chats in memory, by id; `capacity` bounds those that nobody needs."""

    def __init__(self, capacity: int = 100_000) -> None:
        self._by_id: dict[str, Chat] = {}
        self._capacity = self._trim_at = capacity
        self.get = self._by_id.get
        #: Keys of chats of which message-storage failed at a message: it is read from where it was set apart.
        self.storage_letters: set[int] = set()

    def add(self, chat: Chat) -> Chat:
        """The one that is remembered: `chat`, or the one that was there first."""
        if len(self._by_id) >= self._trim_at:
            self._trim()
        return self._by_id.setdefault(chat.chat_id, chat)

    def __iter__(self) -> Iterator[Chat]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def _trim(self) -> None:
        """Forgets half of those that nobody needs; the next look waits until there are many more again."""
        idle = [
            chat.chat_id for chat in self._by_id.values() if not chat.unmoved and chat.drawn_ordinal == chat.ordinal
        ]
        for chat_id in idle[: len(idle) // 2 + 1]:
            del self._by_id[chat_id]
        self._trim_at = max(self._capacity, len(self._by_id) * 5 // 4)
