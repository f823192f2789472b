"""P2P WebSocket Publisher: `$default` -> topic. (Seed: p2pWebSocketPublisher, websocket-message-publisher/)

    gateway -> publish -> Publishing -> Bus

Takes what all connections have sent since the last turn in one batch; the answers are the gateway's to send.
"""

from collections.abc import Sequence

from tocsin.publishing import Answer, Offer, Publishing


class P2pPublisher:
    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing

    async def publish(self, offers: Sequence[Offer]) -> Sequence[Answer]:
        return await self._publishing.publish(offers, door="p2p")
