"""Publish objects as a gateway has decoded them."""

import msgspec

from tocsin.message import PublishRequest


def request(
    chat_id: str = "c1", content: object = "hello", *, payload: dict[str, object] | None = None, **fields: object
) -> PublishRequest:
    """`payload` replaces it, `fields` are the publish object's own."""
    body = {"chatId": chat_id, "eventType": "chat", "content": content} if payload is None else payload
    wanted = {"messageType": "fifo"} | fields | {"payload": msgspec.Raw(msgspec.json.encode(body))}
    return msgspec.convert(wanted, PublishRequest)
