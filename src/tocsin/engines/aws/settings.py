"""What a function is told by its environment: one table of variables, read once, at cold start.

    Lambda's environment -> AwsSettings.read(function) -> AwsEngine, the entry points (profiles/aws.py)

Rule: what a function needs and lacks ends its cold start with the variable's name; nothing is looked for later.
"""

from collections.abc import Mapping
from typing import Final, Literal, Self, get_args

import msgspec

Function = Literal[
    "websocket-authorizer",
    "connection-handler",
    "p2pWebSocketPublisher",
    "a2pHttpPublisher",
    "processor",
    "message-storage",
    "message-retrieval",
    "chat-permission",
    "metric-collector",
]
FUNCTIONS: Final[tuple[Function, ...]] = get_args(Function)

_TOKENS: Final[tuple[Function, ...]] = ("websocket-authorizer", "connection-handler")
_REST: Final[tuple[Function, ...]] = ("a2pHttpPublisher", "message-retrieval", "chat-permission", "metric-collector")
_PUBLISHERS: Final[tuple[Function, ...]] = ("p2pWebSocketPublisher", "a2pHttpPublisher")
_POSTS: Final[tuple[Function, ...]] = ("connection-handler", "processor", "chat-permission")
_CURSORS: Final[tuple[Function, ...]] = ("message-retrieval", "chat-permission")


class EnvironmentFault(Exception):
    """What is wrong with a function's environment, for whoever deployed it."""


class Variable(msgspec.Struct, frozen=True):
    """`default` None: each of `functions` must be given it."""

    name: str
    says: str
    functions: tuple[Function, ...]
    default: str | None = None


#: The seed's names where it has one. deploy/aws gives each function what it needs here, and nothing else.
ENVIRONMENT: Final = (
    Variable("CONNECTION_TABLE", "who is connected", (*_POSTS, "p2pWebSocketPublisher")),
    Variable(
        "MESSAGE_STORAGE_TABLE",
        "messages",  # a fence is read with the oldest number, and that one is looked for among them
        ("connection-handler", "processor", "message-storage", "message-retrieval", "chat-permission"),
    ),
    Variable(
        "PERMISSIONS_TABLE",
        "who may what",
        ("websocket-authorizer", "connection-handler", *_PUBLISHERS, "message-retrieval", "chat-permission"),
    ),
    Variable(
        "SEQUENCE_TABLE",
        "counters and the epoch",
        ("connection-handler", "processor", "message-retrieval", "chat-permission"),
    ),
    Variable("SUBSCRIPTION_TABLE", "who listens to what", ("connection-handler", "processor", "chat-permission")),
    Variable(
        "CLAIM_TABLE",
        "ids seen, tickets, tries",
        (*_TOKENS, *_PUBLISHERS, "processor", "message-storage", "chat-permission"),
    ),
    Variable("FIFO_TOPIC_ARN", "the topic of ordered messages", _PUBLISHERS),
    Variable("STANDARD_TOPIC_ARN", "the topic of the others", _PUBLISHERS),
    Variable("FIFO_QUEUE_URL", "the processor's queue of ordered messages", ("processor",)),
    Variable("STANDARD_QUEUE_URL", "the processor's queue of the others", ("processor",)),
    Variable("STORAGE_QUEUE_URL", "message-storage's queue", ("message-storage",)),
    Variable("FIFO_DLQ_URL", "the dead letters of FIFO_QUEUE_URL", ("processor",)),
    Variable("STANDARD_DLQ_URL", "the dead letters of STANDARD_QUEUE_URL", ("processor",)),
    Variable("STORAGE_DLQ_URL", "the dead letters of STORAGE_QUEUE_URL", ("message-storage",)),
    Variable("WS_API_ENDPOINT", "https://…/stage of the WebSocket API, where connections are posted to", _POSTS),
    Variable("ISSUER", "whose tokens count", (*_TOKENS, *_REST)),
    Variable("JWKS_URL", "where the issuer's keys are", _TOKENS),
    Variable("AUDIENCE", "the client ids whose tokens count, separated by commas", (*_TOKENS, *_REST)),
    Variable("SCOPE_PREFIX", "what our scopes begin with in a token", (*_TOKENS, *_REST), "tocsin/"),
    Variable("CURSOR_SECRET_ARN", "the secret that signs startKey", _CURSORS),
    Variable("RETENTION_DAYS", "for how long messages are kept", ("processor", "message-storage"), "30"),
    Variable("ALLOWED_ORIGINS", "origins of browsers, separated by commas", ("websocket-authorizer", *_REST), ""),
    Variable("METRICS_NAMESPACE", "where CloudWatch keeps the metrics", FUNCTIONS, "Tocsin"),
)

_DAY_MILLISECONDS: Final = 86_400_000


class AwsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A field is the variable of its name; what a function does not need is empty.

    `retention` in milliseconds; `chats_per_connection` is a limit of docs/wire.md and no variable.
    """

    connection_table: str = ""
    message_storage_table: str = ""
    permissions_table: str = ""
    sequence_table: str = ""
    subscription_table: str = ""
    claim_table: str = ""
    fifo_topic_arn: str = ""
    standard_topic_arn: str = ""
    fifo_queue_url: str = ""
    standard_queue_url: str = ""
    storage_queue_url: str = ""
    fifo_dlq_url: str = ""
    standard_dlq_url: str = ""
    storage_dlq_url: str = ""
    ws_api_endpoint: str = ""
    issuer: str = ""
    jwks_url: str = ""
    audience: tuple[str, ...] = ()
    scope_prefix: str = "tocsin/"
    cursor_secret_arn: str = ""
    retention: int = 30 * _DAY_MILLISECONDS
    allowed_origins: tuple[str, ...] = ()
    metrics_namespace: str = "Tocsin"
    chats_per_connection: int = 300

    @classmethod
    def read(cls, function: Function, environment: Mapping[str, str]) -> Self:
        """Raises EnvironmentFault, with the names of all that is missing."""
        needed = [variable for variable in ENVIRONMENT if function in variable.functions]
        given = {one.name: environment.get(one.name) or one.default for one in needed}
        if missing := [name for name, value in given.items() if value is None]:
            raise EnvironmentFault(f"{function} lacks {', '.join(missing)} in its environment.")
        values = {name.lower(): value for name, value in given.items() if value is not None}
        days = values.pop("retention_days", "30")
        if not (days.isascii() and days.isdigit() and int(days)):
            raise EnvironmentFault(f"RETENTION_DAYS is {days!r}; a whole number of days is allowed, from 1.")
        lists = {name: _list(values.pop(name)) for name in ("audience", "allowed_origins") if name in values}
        return cls(**values, **lists, retention=int(days) * _DAY_MILLISECONDS)  # type: ignore[arg-type]


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
