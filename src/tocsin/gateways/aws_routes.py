"""Which of the nine functions serves which route on AWS: one literal table, by the seed's names.

    profiles/aws.py (the entry points), deploy/aws (the routes of both APIs), docs/aws-differences.md

Rule: what is in no row is not served. `/@connections` is API Gateway's own, behind IAM, and a WebSocket is opened at a
      host of its own: neither is a route of the REST API here.
"""

from types import MappingProxyType
from typing import Final

#: Function -> its entry point in profiles/aws.py.
ENTRY_POINTS: Final = MappingProxyType(
    {
        "websocket-authorizer": "websocket_authorizer",
        "connection-handler": "connection_handler",
        "p2pWebSocketPublisher": "p2p_web_socket_publisher",
        "a2pHttpPublisher": "a2p_http_publisher",
        "processor": "processor",
        "message-storage": "message_storage",
        "message-retrieval": "message_retrieval",
        "chat-permission": "chat_permission",
        "metric-collector": "metric_collector",
    }
)

#: Route key -> function. A frame's route is its `action`, if that has one here; else it is `$default`'s.
WEBSOCKET_ROUTES: Final = MappingProxyType(
    {
        "$connect": "connection-handler",
        "$disconnect": "connection-handler",
        "subscribe": "connection-handler",
        "unsubscribe": "connection-handler",
        "sync": "connection-handler",
        "refreshToken": "connection-handler",
        "sendMessage": "p2pWebSocketPublisher",
        "ping": "p2pWebSocketPublisher",
        "$default": "p2pWebSocketPublisher",
    }
)

#: Method and path -> function.
REST_ROUTES: Final = MappingProxyType(
    {
        ("POST", "/publish"): "a2pHttpPublisher",
        ("POST", "/publish/batch"): "a2pHttpPublisher",
        ("GET", "/messages"): "message-retrieval",
        ("POST", "/permissions"): "chat-permission",
        ("DELETE", "/permissions"): "chat-permission",
        ("GET", "/permissions"): "chat-permission",
        ("POST", "/tickets"): "chat-permission",
        ("POST", "/metrics"): "metric-collector",
        ("GET", "/openapi.json"): "metric-collector",
    }
)

#: Whose token was looked at before `$connect`.
AUTHORIZER: Final = "websocket-authorizer"
#: Who is called once a minute: ended tokens, and what a client missed.
EACH_MINUTE: Final = "connection-handler"
