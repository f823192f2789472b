"""The nine functions, as data: what each runs, for how long, with how much memory, from which queues, and what it may.

    functions.py -> compute.py (Lambda, one role each) -> tests/deploy (each statement has its name, for its probe)

Rules:
- a role has the actions that its function calls, on the resources that it calls them on; `*` stands nowhere;
- names and timeouts are the seed's; memory and bounds are ours.
"""

from typing import Final

import msgspec

from tocsin.engines.aws import settings
from tocsin.engines.aws.schema import (
    CLAIM_TABLE,
    CONNECTION_TABLE,
    EPOCH,
    MESSAGE_STORAGE_TABLE,
    OLDEST,
    PERMISSIONS_TABLE,
    SEQUENCE_INDEX,
    SEQUENCE_TABLE,
    SUBSCRIPTION_TABLE,
    Table,
    queue_name,
)
from tocsin.topology import (
    MESSAGE_STORAGE_QUEUE,
    TOPICS,
    WEBSOCKET_FIFO_QUEUE,
    WEBSOCKET_STANDARD_QUEUE,
    Queue,
)

#: What message-storage's queue starts at once: the seed's reservation, without reserving.
STORAGE_CONCURRENCY: Final = 5


class Allow(msgspec.Struct, frozen=True):
    """One statement of a role. `on` are resources in the form kind/name (compute.py makes ARNs of them).

    With `keys`, only rows with such a partition key; `*` stands for anything.
    """

    sid: str
    actions: tuple[str, ...]
    on: tuple[str, ...]
    keys: tuple[str, ...] = ()


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """`timeout` in seconds, `memory` in MB; `seed_reserved` is the seed's concurrency, which is a setting here."""

    name: settings.Function
    timeout: int
    memory: int = 512
    queues: tuple[Queue, ...] = ()
    seed_reserved: int | None = None
    allows: tuple[Allow, ...] = ()


def _dynamodb(sid: str, actions: str, table: Table, index: str | None = None, keys: tuple[str, ...] = ()) -> Allow:
    resource = f"table/{table.name}" if index is None else f"table/{table.name}/index/{index}"
    return Allow(sid, tuple(f"dynamodb:{action}" for action in actions.split()), (resource,), keys)


def _consumes(*queues: Queue) -> tuple[Allow, Allow]:
    """What Lambda's poller does in the role's name, our own shorter waits, and our own dead letters."""
    actions = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes", "ChangeMessageVisibility")
    return (
        Allow(
            "Consume",
            tuple(f"sqs:{action}" for action in actions),
            tuple(f"queue/{queue_name(queue.name, fifo=queue.fifo)}" for queue in queues),
        ),
        Allow(
            "BuryDeadLetters",
            ("sqs:SendMessage",),
            tuple(f"queue/{queue_name(queue.dead_letters, fifo=queue.fifo)}" for queue in queues),
        ),
    )


_READ_ROLES: Final = _dynamodb("ReadRoles", "BatchGetItem", PERMISSIONS_TABLE)
_PUBLISH: Final = (
    Allow("Publish", ("sns:Publish",), tuple(f"topic/{topic.name}" for topic in TOPICS)),
    _dynamodb("ClaimIds", "GetItem PutItem UpdateItem", CLAIM_TABLE),
)
#: A chat's head comes with its oldest number; where that is not known it is looked for among the messages, and noted.
#: The first to ask begins the epoch. The counter itself is the processor's alone.
_READ_HEADS: Final = (
    _dynamodb("ReadHeads", "BatchGetItem GetItem", SEQUENCE_TABLE),
    _dynamodb("NoteOldestAndEpoch", "PutItem", SEQUENCE_TABLE, keys=(EPOCH, f"{OLDEST}*")),
    _dynamodb("ReadTable", "Query", MESSAGE_STORAGE_TABLE),
    _dynamodb("ReadIndex", "Query", MESSAGE_STORAGE_TABLE, SEQUENCE_INDEX),
)
#: Who posts finds out who is gone, and who does not take what is posted.
_POST: Final = (
    Allow("PostToConnections", ("execute-api:ManageConnections",), ("connections/POST",)),
    Allow("EndConnections", ("execute-api:ManageConnections",), ("connections/DELETE",)),
)
_READ_CURSOR_KEY: Final = Allow("ReadCursorKey", ("secretsmanager:GetSecretValue",), ("secret/cursor",))

FUNCTIONS: Final = (
    Function(
        name="websocket-authorizer",
        timeout=10,
        allows=(_READ_ROLES, _dynamodb("RedeemTickets", "UpdateItem", CLAIM_TABLE)),
    ),
    Function(
        name="connection-handler",
        timeout=30,
        allows=(
            _dynamodb("CheckRoles", "ConditionCheckItem", PERMISSIONS_TABLE),
            _dynamodb("ReadTickets", "GetItem", CLAIM_TABLE),
            _dynamodb("KeepConnections", "BatchGetItem GetItem PutItem UpdateItem DeleteItem", CONNECTION_TABLE),
            _dynamodb(
                "KeepSubscriptions",
                "GetItem Query PutItem UpdateItem DeleteItem BatchWriteItem",
                SUBSCRIPTION_TABLE,
            ),
            *_READ_HEADS,
            *_POST,
        ),
    ),
    Function(
        name="p2pWebSocketPublisher",
        timeout=10,
        allows=(*_PUBLISH, _READ_ROLES, _dynamodb("ReadConnection", "GetItem", CONNECTION_TABLE)),
    ),
    Function(name="a2pHttpPublisher", timeout=10, seed_reserved=1, allows=(*_PUBLISH, _READ_ROLES)),
    Function(
        name="processor",
        timeout=60,
        memory=1024,
        queues=(WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE),
        allows=(
            *_consumes(WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE),
            _dynamodb("CountTries", "UpdateItem", CLAIM_TABLE),
            _dynamodb("Number", "GetItem UpdateItem", SEQUENCE_TABLE),
            _dynamodb("StoreNumbered", "BatchGetItem UpdateItem", MESSAGE_STORAGE_TABLE),
            _dynamodb(
                "ServeAudience", "GetItem Query PutItem UpdateItem DeleteItem BatchWriteItem", SUBSCRIPTION_TABLE
            ),
            _dynamodb("ForgetConnections", "DeleteItem", CONNECTION_TABLE),
            *_POST,
        ),
    ),
    Function(
        name="message-storage",
        timeout=30,
        queues=(MESSAGE_STORAGE_QUEUE,),
        seed_reserved=5,
        allows=(
            *_consumes(MESSAGE_STORAGE_QUEUE),
            _dynamodb("CountTries", "UpdateItem", CLAIM_TABLE),
            _dynamodb("Store", "UpdateItem", MESSAGE_STORAGE_TABLE),
        ),
    ),
    Function(name="message-retrieval", timeout=10, allows=(_READ_ROLES, *_READ_HEADS, _READ_CURSOR_KEY)),
    Function(
        name="chat-permission",
        timeout=10,
        allows=(
            _dynamodb(
                "KeepRoles", "BatchGetItem GetItem Query PutItem UpdateItem ConditionCheckItem", PERMISSIONS_TABLE
            ),
            _dynamodb("ListChat", "Query", PERMISSIONS_TABLE, PERMISSIONS_TABLE.indexes[0].name),
            _dynamodb("EndSubscriptions", "Query UpdateItem BatchWriteItem", SUBSCRIPTION_TABLE),
            _dynamodb("ForgetConnections", "DeleteItem", CONNECTION_TABLE),
            *_READ_HEADS,
            _dynamodb("OfferTickets", "PutItem", CLAIM_TABLE),
            *_POST,
            _READ_CURSOR_KEY,
        ),
    ),
    Function(name="metric-collector", timeout=10),
)
BY_NAME: Final[dict[str, Function]] = {function.name: function for function in FUNCTIONS}
