"""What the REST door takes and gives: one record for each body, query and answer (docs/wire.md, REST).

    http.py decodes and encodes them; openapi.py describes them; routes.py says which route has which

Rule: what is documented is what is decoded. A record that only describes says so.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tocsin.components.metric_collector import MAX_METRICS, ReportedMetric
from tocsin.message import IDENTIFIER_CHARACTERS, MAX_SEQUENCE, MessageType, Payload, PublishRequest
from tocsin.roles import Role

#: Entries.
MAX_BATCH: Final = 500
MAX_PAGE: Final = 1_000
#: As many as a connection may listen to; the ticket is for one connection.
MAX_TICKET_CHATS: Final = 300


def _identifier(longest: int) -> str:
    # `(?!\n)`: to Python's `$` the end may have a line feed behind it.
    return rf"^[{IDENTIFIER_CHARACTERS}]{{1,{longest}}}(?!\n)$"


ChatId = Annotated[str, Meta(pattern=_identifier(128), description="The chat's name.", examples=["chat-abc123"])]
UserId = Annotated[str, Meta(pattern=_identifier(120), description="The user's name.", examples=["user-123"])]
Time = Annotated[str, Meta(description="RFC 3339.", extra_json_schema={"format": "date-time"})]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE, description="How many a page may have.")]
StartKey = Annotated[str, Meta(description="The page before's `nextStartKey`.")]
Number = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """What a client sends."""


class _Given(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a client gets."""


# -- publishing --------------------------------------------------------------------------------------------------------


class PublishBatch(_Asked, frozen=True, kw_only=True):
    """Publish objects, in order; each is accepted or refused by itself."""

    # Describes: batch.py reads it, entry by entry.
    messages: Annotated[list[PublishRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class Published(_Given, frozen=True, kw_only=True):
    """An accepted publish; the first one's id and time if it is a `duplicate`."""

    message_id: str
    timestamp: Time
    duplicate: bool


class Fault(_Given, frozen=True, kw_only=True):
    """Why an entry was refused."""

    code: str
    message: str
    field: str | UnsetType = UNSET


class Refused(_Given, frozen=True, kw_only=True):
    """A refused entry of a batch."""

    error: Fault


class BatchResults(_Given, frozen=True, kw_only=True):
    """One for each entry, in order: Published or Refused."""

    results: list[msgspec.Raw]


# -- history -----------------------------------------------------------------------------------------------------------


class MessagesQuery(_Asked, frozen=True, kw_only=True):
    chat_id: ChatId
    limit: Limit = 50
    start_key: StartKey | None = None
    from_timestamp: Time | None = None
    to_timestamp: Time | None = None
    from_sequence: Number | None = None
    to_sequence: Number | None = None
    order: Literal["asc", "desc"] | None = None


class HistoryMessage(_Given, frozen=True, kw_only=True):
    """A message as history has it; `payload` is what was published, byte for byte."""

    # Describes: messages are sent as they are stored.
    message_id: str
    message_type: MessageType
    target_channel: str
    timestamp: Time
    sender_id: str
    sequence_number: int | UnsetType = UNSET
    message_deduplication_id: str | UnsetType = UNSET
    payload: Payload


class MessagePage(_Given, frozen=True, kw_only=True):
    """A page of history, and where the chat stands: its numbers, and the store's life."""

    # Describes, as HistoryMessage does.
    messages: list[HistoryMessage]
    next_start_key: str | None
    head_sequence: int
    oldest_sequence: int
    epoch: str


# -- permissions -------------------------------------------------------------------------------------------------------


class Grant(_Asked, frozen=True, kw_only=True):
    user_id: UserId
    chat_id: ChatId
    role: Role


class RevokeQuery(_Asked, frozen=True, kw_only=True):
    user_id: UserId
    chat_id: ChatId


class PermissionsQuery(_Asked, frozen=True, kw_only=True):
    """One of `userId` and `chatId`, or both."""

    user_id: UserId | None = None
    chat_id: ChatId | None = None
    limit: Limit = 50
    start_key: StartKey | None = None


class GrantedPermission(_Given, frozen=True, kw_only=True):
    user_id: str
    chat_id: str
    role: Role
    granted_by: str
    granted_at: Time


class PermissionsPage(_Given, frozen=True, kw_only=True):
    permissions: list[GrantedPermission]
    next_start_key: str | None


class Revocation(_Given, frozen=True, kw_only=True):
    """No socket of the user's is sent a number above `fenceSequence`."""

    user_id: str
    chat_id: str
    fence_sequence: int


# -- metrics, tickets, connections -------------------------------------------------------------------------------------


class MetricReport(_Asked, frozen=True, kw_only=True):
    metrics: Annotated[list[ReportedMetric], Meta(min_length=1, max_length=MAX_METRICS)]


class TicketRequest(_Asked, frozen=True, kw_only=True):
    """`chatIds` limits what the connection may subscribe and publish to; null is refused, lest a mistake widen it."""

    chat_ids: Annotated[list[ChatId], Meta(max_length=MAX_TICKET_CHATS)] | UnsetType = UNSET


class Ticket(_Given, frozen=True, kw_only=True):
    """Good once, for `expiresIn` seconds."""

    ticket: str
    expires_in: int


class ConnectionIdentity(_Given, frozen=True, kw_only=True):
    source_ip: str
    user_agent: str


class ConnectionState(_Given, frozen=True, kw_only=True):
    connected_at: Time
    last_active_at: Time
    identity: ConnectionIdentity


class ConnectQuery(_Asked, frozen=True, kw_only=True):
    """What an upgrade's URL may say; other parameters are ignored."""

    # Describes: websocket_authorizer.py reads it.
    chat_id: list[ChatId] = []
    user_id: UserId | None = None
    last_sequence: Number | None = None
    epoch: str | None = None


class Problem(_Given, frozen=True, kw_only=True):
    """Every refusal. `field` is a path into what was sent."""

    message: str
    code: str
    request_id: str
    field: str | UnsetType = UNSET
