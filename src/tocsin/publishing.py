"""What both doors decide about a publish, and in which order: token, form, permission, rate; then the bus.

    p2p_publisher, a2p_publisher -> Publishing.publish -> Bus.publish

Rules:
- permission is asked for at every publish, and never remembered between two;
- a message is stamped once, at the last moment before the bus takes it, so that stamps ascend with the order.
"""

from collections.abc import Sequence

import msgspec

from tocsin.bus import Bus, Receipt
from tocsin.clock import Clock
from tocsin.errors import Refusal, after_refused, forbidden
from tocsin.failpoints import Failpoints
from tocsin.identity import Identity
from tocsin.message import MessageIds, Payload, Publication, PublishRequest, check_publish, publication
from tocsin.metrics import Metrics
from tocsin.rates import Rates
from tocsin.roles import may_publish
from tocsin.tables import Permissions

Answer = Receipt | Refusal


class Offer(msgspec.Struct, frozen=True, gc=False):
    """One publish as it came: who, and what; or why it could not be read, and its chat as far as that could."""

    identity: Identity
    request: PublishRequest | Refusal
    chat_id: str | None = None


class Publishing:
    def __init__(
        self,
        *,
        bus: Bus,
        permissions: Permissions,
        rates: Rates,
        metrics: Metrics,
        clock: Clock,
        ids: MessageIds,
        failpoints: Failpoints,
    ) -> None:
        self._bus = bus
        self._permissions = permissions
        self._rates = rates
        self._metrics = metrics
        self._clock = clock
        self._ids = ids
        self._failpoints = failpoints

    async def publish(self, offers: Sequence[Offer], *, door: str, chained: bool = False) -> Sequence[Answer]:
        """One answer for each offer; `chained`: after a refused one the later ones of its chat are refused, too."""
        now = self._clock.now()
        answers: list[Answer | None] = [None] * len(offers)
        readable: list[tuple[int, Identity, PublishRequest, Payload]] = []
        asked: list[tuple[str, str]] = []
        chats: list[str | None] = [offer.chat_id for offer in offers]
        for index, offer in enumerate(offers):
            identity, request = offer.identity, offer.request
            if isinstance(request, Refusal):
                answers[index] = request
                continue
            try:
                if identity.expires_at <= now:
                    raise Refusal("token_expired", "The token has expired; send a new one with refreshToken.")
                payload = check_publish(request, identity.user_id)
            except Refusal as refusal:
                answers[index] = refusal
                continue
            chats[index] = payload.chat_id
            readable.append((index, identity, request, payload))
            asked.append((identity.user_id, payload.chat_id))
        roles = await self._permissions.roles(asked)
        refused = _Refused(chats, answers) if chained else None
        accepted: list[int] = []
        publications: list[Publication] = []
        for (index, identity, request, payload), role in zip(readable, roles, strict=True):
            chat_id = payload.chat_id
            if (identity.chat_ids is not None and chat_id not in identity.chat_ids) or not (
                may_publish(role) or "publish:any" in identity.scopes
            ):
                answers[index] = forbidden(chat_id)
            elif refused is not None and refused.before(index, chat_id):
                answers[index] = after_refused(chat_id)
            elif "publish:any" not in identity.scopes and (wait := self._rates.take(identity.user_id, chat_id)):
                answers[index] = Refusal(
                    "rate_limited", "You publish too often in this chat.", chat_id=chat_id, retry_after=wait
                )
            else:
                message_id, timestamp = self._ids.draw(self._clock.now())
                publications.append(
                    publication(
                        request,
                        payload,
                        sender_id=identity.user_id,
                        message_id=message_id,
                        timestamp=timestamp,
                    )
                )
                accepted.append(index)
        if publications:
            for index, answer in zip(accepted, await self._bus.publish(publications, chained=chained), strict=True):
                answers[index] = answer
            await self._failpoints.reach("publish.before_ack")
        self._count([answer for answer in answers if answer is not None], door)
        return [answer for answer in answers if answer is not None]

    def _count(self, answers: Sequence[Answer], door: str) -> None:
        duplicates = 0
        refusals: dict[str, int] = {}
        for answer in answers:
            if isinstance(answer, Refusal):
                refusals[answer.code] = refusals.get(answer.code, 0) + 1
            elif answer.duplicate:
                duplicates += 1
        self._metrics.count("publishes", len(answers) - sum(refusals.values()), label=door)
        if duplicates:
            self._metrics.count("duplicates", duplicates)
        for code, number in refusals.items():
            self._metrics.count("refusals", number, label=code)


class _Refused:
    """Whether an earlier entry of the same chat was refused."""

    def __init__(self, chats: Sequence[str | None], answers: Sequence[Answer | None]) -> None:
        self._chats = chats
        self._answers = answers
        self._next = 0
        self._refused: set[str] = set()

    def before(self, index: int, chat_id: str) -> bool:
        for earlier in range(self._next, index):
            chat = self._chats[earlier]
            if chat is not None and isinstance(self._answers[earlier], Refusal):
                self._refused.add(chat)
        self._next = index
        return chat_id in self._refused
