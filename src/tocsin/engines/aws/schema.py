"""The six tables, as data: the seed's four with its keys and indexes, and the two that close its holes.

What creates tables (deploy/aws, the tests' stage) reads this. All keys are strings unless they say otherwise; what is
not a key is no business of a schema.

Rules:
- no index is needed for correctness: an index lags, so what must be consistent is read from a table;
- `ttl` is in seconds and DynamoDB deletes days late, so whoever reads a row looks at it, too.
"""

from typing import Final, Literal

import msgspec

#: The attribute by which DynamoDB deletes, in every table.
TTL: Final = "ttl"


class Key(msgspec.Struct, frozen=True):
    name: str
    type: Literal["S", "N"] = "S"


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """A global secondary index; it carries all attributes."""

    name: str
    partition: Key
    sort: Key | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """`variable` is where a function is told its name (settings.py)."""

    name: str
    variable: str
    partition: Key
    sort: Key | None = None
    indexes: tuple[Index, ...] = ()

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of the table and its indexes, each once."""
        pairs = [(self.partition, self.sort), *[(index.partition, index.sort) for index in self.indexes]]
        return tuple(dict.fromkeys(key for pair in pairs for key in pair if key is not None))


CONNECTION_TABLE: Final = Table(
    name="ConnectionTable",
    variable="CONNECTION_TABLE",
    partition=Key("connectionId"),
    indexes=(Index(name="ChatIdIndex", partition=Key("chatId")),),
)
#: `timestamp` is `2026-01-01T00:00:00.000Z#<messageId>`: two messages of one millisecond have two rows.
MESSAGE_STORAGE_TABLE: Final = Table(
    name="MessageStorageTable",
    variable="MESSAGE_STORAGE_TABLE",
    partition=Key("chatId"),
    sort=Key("timestamp"),
    indexes=(Index(name="SequenceIndex", partition=Key("chatId"), sort=Key("sequenceNumber", "N")),),
)
PERMISSIONS_TABLE: Final = Table(
    name="UserChatPermissions",
    variable="PERMISSIONS_TABLE",
    partition=Key("userId"),
    sort=Key("chatId"),
    indexes=(Index(name="ChatIdIndex", partition=Key("chatId"), sort=Key("userId")),),
)
#: Scopes: a chatId (its counter), `oldest#<chatId>`, `#epoch`. `#` is in no chatId.
SEQUENCE_TABLE: Final = Table(name="SequenceCounterTable", variable="SEQUENCE_TABLE", partition=Key("scope"))
EPOCH: Final = "#epoch"
OLDEST: Final = "oldest#"
#: Who listens to what, read consistently; and rows by the minute (chatId `#expires#…`, `#missed#…`, `#whole`).
SUBSCRIPTION_TABLE: Final = Table(
    name="SubscriptionTable",
    variable="SUBSCRIPTION_TABLE",
    partition=Key("chatId"),
    sort=Key("connectionId"),
)
#: Ids seen, tickets, tries.
CLAIM_TABLE: Final = Table(name="ClaimTable", variable="CLAIM_TABLE", partition=Key("claim"))

TABLES: Final = (
    CONNECTION_TABLE,
    MESSAGE_STORAGE_TABLE,
    PERMISSIONS_TABLE,
    SEQUENCE_TABLE,
    SUBSCRIPTION_TABLE,
    CLAIM_TABLE,
)
SEQUENCE_INDEX: Final = MESSAGE_STORAGE_TABLE.indexes[0].name


def queue_name(name: str, *, fifo: bool) -> str:
    """As AWS demands it: a FIFO queue's name ends in `.fifo`."""
    return f"{name}.fifo" if fifo and not name.endswith(".fifo") else name
