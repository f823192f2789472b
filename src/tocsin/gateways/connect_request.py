"""What an upgrade's URL and headers ask for (docs/wire.md, WebSocket).

    conversation, aws_sockets -> read_connect_request -> websocket_authorizer

Rules:
- of several credentials the first counts: ticket, Authorization, subprotocol, token;
- a parameter that comes twice is refused, but only once it is known who asks (`ConnectRequest.fault`): until then its
  first value counts. Of two Authorization headers none does, so that is refused at once.
"""

from collections.abc import Sequence
from typing import Final

from tocsin.components.websocket_authorizer import ConnectRequest
from tocsin.errors import Refusal, invalid
from tocsin.gateways.handshake import UpgradeRequest

#: What the upgrade is answered with, the first that is offered.
SUBPROTOCOLS: Final = ("tocsin.v1", "tocsin")
BEARER: Final = "bearer."
_ONCE: Final = ("ticket", "token", "userId", "lastSequence", "epoch")


def read_connect_request(request: UpgradeRequest) -> tuple[ConnectRequest, str | None]:
    """What the upgrade asks for, and the subprotocol that it is answered with."""
    values: dict[str, str] = {}
    chat_ids: list[str] = []
    fault: Refusal | None = None
    for name, value in request.query:
        if name == "chatId":
            chat_ids.append(value)
        elif name not in values:
            values[name] = value
        elif name in _ONCE and fault is None:
            fault = invalid(name, "It may be given once.")
    offered = request.subprotocols()
    subprotocol = next((name for name in SUBPROTOCOLS if name in offered), None)
    token = _token(request, offered if subprotocol is not None else ())
    return (
        ConnectRequest(
            ticket=values.get("ticket"),
            token=values.get("token") if token is None else token,
            user_id=values.get("userId"),
            chat_ids=tuple(chat_ids),
            last_sequence=values.get("lastSequence"),
            epoch=values.get("epoch"),
            fault=fault,
        ),
        subprotocol,
    )


def _token(request: UpgradeRequest, offered: Sequence[str]) -> str | None:
    """The header's, else the first that is offered as a subprotocol."""
    authorization = request.header_values("authorization")
    if len(authorization) > 1:
        raise Refusal("bad_request", "There is more than one Authorization header.")
    if authorization:
        scheme, _, credentials = authorization[0].partition(" ")
        if scheme.lower() == "bearer":
            return credentials.strip()
    return next((offer.removeprefix(BEARER) for offer in offered if offer.startswith(BEARER)), None)


def check_origin(request: UpgradeRequest, allowed: frozenset[str]) -> None:
    """A browser's Origin must be one of them, letter for letter; none: any may come. Raises `forbidden`."""
    origin = request.header("origin")
    if origin is not None and allowed and origin not in allowed:
        raise Refusal("forbidden", "This origin is not allowed.", field="Origin")
