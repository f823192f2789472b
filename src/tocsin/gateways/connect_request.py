"""What an upgrade's URL and headers ask for (docs/wire.md, WebSocket).

    conversation, aws_sockets -> read_connect_request -> websocket_authorizer

Rules:
- of several credentials the first counts: ticket, Authorization, subprotocol, token;
- a parameter that comes twice is refused, but only once it is known who asks (`ConnectRequest.fault`): until then its
  first value counts. Of two Authorization headers none does, so that is refused at once.
"""

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
    values: dict[str, list[str]] = {}
    for name, value in request.query:
        values.setdefault(name, []).append(value)
    doubled = [name for name in _ONCE if len(values.get(name, ())) > 1]
    offered = request.subprotocols()
    bearers = [offer.removeprefix(BEARER) for offer in offered if offer.startswith(BEARER)]
    subprotocol = next((name for name in SUBPROTOCOLS if name in offered), None)
    authorization = request.header_values("authorization")
    if len(authorization) > 1:
        raise Refusal("bad_request", "There is more than one Authorization header.")
    scheme, _, credentials = (authorization[0] if authorization else "").partition(" ")
    tokens = [credentials.strip()] if scheme.lower() == "bearer" else []
    if subprotocol is not None:
        tokens += bearers
    tokens += values.get("token", ())

    def one(name: str) -> str | None:
        return values[name][0] if name in values else None

    return (
        ConnectRequest(
            ticket=one("ticket"),
            token=tokens[0] if tokens else None,
            user_id=one("userId"),
            chat_ids=tuple(values.get("chatId", ())),
            last_sequence=one("lastSequence"),
            epoch=one("epoch"),
            fault=invalid(doubled[0], "It may be given once.") if doubled else None,
        ),
        subprotocol,
    )


def check_origin(request: UpgradeRequest, allowed: frozenset[str]) -> None:
    """A browser's Origin must be one of them, letter for letter; none: any may come. Raises `forbidden`."""
    origin = request.header("origin")
    if origin is not None and allowed and origin not in allowed:
        raise Refusal("forbidden", "This origin is not allowed.", field="Origin")
