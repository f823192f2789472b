"""A2P HTTP Publisher: POST /publish, POST /publish/batch -> topic. (Seed: a2pHttpPublisher, http-message-publisher/)

gateway -> publish, publish_batch -> Publishing -> Bus
"""

from collections.abc import Sequence

import msgspec

from tocsin.bus import Receipt
from tocsin.errors import Refusal, invalid
from tocsin.identity import Identity
from tocsin.message import PublishRequest
from tocsin.publishing import Answer, Offer, Publishing


class A2pPublisher:
    def __init__(self, publishing: Publishing) -> None:
        self._publishing = publishing

    async def publish(self, identity: Identity, request: PublishRequest, idempotency_key: str | None) -> Receipt:
        """`idempotency_key` is the header's; both given and different is refused."""
        wanted: PublishRequest | Refusal = request
        if idempotency_key is not None:
            if request.message_deduplication_id in (None, idempotency_key):
                wanted = msgspec.structs.replace(request, message_deduplication_id=idempotency_key)
            else:
                wanted = invalid("messageDeduplicationId", "It differs from the header Idempotency-Key.")
        (answer,) = await self._publishing.publish([Offer(identity, wanted)], door="a2p")
        if isinstance(answer, Refusal):
            raise answer
        return answer

    async def publish_batch(
        self, identity: Identity, entries: Sequence[tuple[PublishRequest | Refusal, str | None]]
    ) -> Sequence[Answer]:
        """Each entry with its chat, as far as that could be read: what follows a refused entry of its chat is refused.
        A commit that fails answers the whole batch."""
        offers = [Offer(identity, request, chat_id) for request, chat_id in entries]
        answers = await self._publishing.publish(offers, door="a2p", chained=True)
        if not any(isinstance(answer, Receipt) for answer in answers):
            for answer in answers:
                if isinstance(answer, Refusal) and answer.code in ("unavailable", "insufficient_storage"):
                    raise answer
        return answers
