"""What a client's action does, and what it is answered, whichever gateway holds its WebSocket.

conversation, aws_sockets -> actions.decode -> carry_out -> connection_handler
                                            -> ack | error_frame
"""

import msgspec

from tocsin.bus import Receipt
from tocsin.components.connection_handler import ConnectionHandler
from tocsin.errors import Refusal
from tocsin.gateways.actions import Action, Ping, RefreshToken, Subscribe, Sync, Unsubscribe, readable_ids
from tocsin.identity import Identity
from tocsin.message import rfc3339


async def carry_out(handler: ConnectionHandler, connection_id: str, identity: Identity, action: Action) -> Identity:
    """All but publishes. Whom the connection speaks for from now on; a refusal names the chat that it is about."""
    request_id = action.request_id
    try:
        match action:
            case Subscribe():
                await handler.subscribe(
                    connection_id,
                    action.chat_id,
                    last_sequence=action.last_sequence,
                    epoch=action.epoch,
                    request_id=request_id,
                )
            case Unsubscribe():
                await handler.unsubscribe(connection_id, action.chat_id, request_id)
            case Sync():
                await handler.sync(connection_id, action.wanted(), action.epoch, request_id)
            case RefreshToken():
                return await handler.refresh_token(connection_id, identity, action.token, request_id)
            case Ping():
                await handler.ping(connection_id, request_id)
    except Refusal as refusal:
        if isinstance(action, Subscribe | Unsubscribe):
            refusal.chat_id = action.chat_id
        raise
    return identity


def ack(request_id: str, receipt: Receipt) -> bytes:
    """The answer to an accepted publish that asked for one."""
    return b'{"type":"ack","requestId":%b,"messageId":"%b","timestamp":"%b","duplicate":%b}' % (
        msgspec.json.encode(request_id),
        receipt.message_id.encode(),
        rfc3339(receipt.timestamp),
        b"true" if receipt.duplicate else b"false",
    )


def locate(refusal: Refusal, text: bytes) -> str | None:
    """The refusal of a text is given the chat, and the requestId is returned, as far as they can be read."""
    request_id, chat_id = readable_ids(text)
    refusal.chat_id = refusal.chat_id or chat_id
    return request_id


def failed() -> Refusal:
    """For a defect: unknown, never silence."""
    return Refusal("internal", "The service failed; try again.")


def failed_publish() -> Refusal:
    return Refusal("internal", "The service failed; repeat this with the same id.")
