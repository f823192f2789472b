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
from tocsin.message import MessageIds, Payload, Publication, PublishRequest, check_publish, publication, readable_chat
from tocsin.metrics import Metrics
from tocsin.rates import Rates
from tocsin.roles import Role, may_publish
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
        largest: int,
    ) -> None:
        """`largest`: so many bytes a message may have as it is delivered."""
        self._bus = bus
        self._permissions = permissions
        self._rates = rates
        self._metrics = metrics
        self._clock = clock
        self._ids = ids
        self._failpoints = failpoints
        self._largest = largest

    async def publish(self, offers: Sequence[Offer], *, door: str, chained: bool = False) -> Sequence[Answer]:
        """One answer for each offer; `chained`: after a refused one the later ones of its chat are refused, too."""
        now = self._clock.now()
        answers: list[Answer | None] = [None] * len(offers)
        checked: list[tuple[int, Identity, PublishRequest, Payload]] = []
        pairs: list[tuple[str, str]] = []
        for index, offer in enumerate(offers):
            identity, request = offer.identity, offer.request
            if isinstance(request, Refusal):
                answers[index] = request
            elif identity.expires_at <= now:
                answers[index] = Refusal("token_expired", "The token has expired; send a new one with refreshToken.")
            else:
                try:
                    payload = check_publish(request, identity.user_id, self._largest)
                except Refusal as fault:
                    fault.chat_id = readable_chat(request.payload)
                    answers[index] = fault
                else:
                    checked.append((index, identity, request, payload))
                    pairs.append((identity.user_id, payload.chat_id))
        roles = await self._permissions.roles(pairs)
        refused = _Refused(offers, answers) if chained else None
        now = self._clock.now()
        draw = self._ids.draw
        accepted: list[int] = []
        publications: list[Publication] = []
        for (index, identity, request, payload), role in zip(checked, roles, strict=True):
            refusal = self._refuse(identity, payload.chat_id, role)
            if refused is not None:
                refusal = refused.judge(index, payload.chat_id, refusal)
            if refusal is not None:
                answers[index] = refusal
                continue
            message_id, timestamp = draw(now)
            accepted.append(index)
            publications.append(
                publication(request, payload, sender_id=identity.user_id, message_id=message_id, timestamp=timestamp)
            )
        if publications:
            for index, answer in zip(accepted, await self._bus.publish(publications, chained=chained), strict=True):
                answers[index] = answer
            await self._failpoints.reach("publish.before_ack")
        given = [answer for answer in answers if answer is not None]
        self._count(given, door)
        return given

    def _refuse(self, identity: Identity, chat_id: str, role: Role | None) -> Refusal | None:
        if identity.chat_ids is not None and chat_id not in identity.chat_ids:
            return forbidden(chat_id)
        if "publish:any" in identity.scopes:
            return None
        if not may_publish(role):
            return forbidden(chat_id)
        if wait := self._rates.take(identity.user_id, chat_id):
            return Refusal("rate_limited", "You publish too often in this chat.", chat_id=chat_id, retry_after=wait)
        return None

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
    """The chats of which an earlier entry of the batch was refused; entries are judged in their order."""

    def __init__(self, offers: Sequence[Offer], answers: Sequence[Answer | None]) -> None:
        self._offers = offers
        self._answers = answers
        self._next = 0
        self._chats: set[str] = set()

    def judge(self, index: int, chat_id: str, fault: Refusal | None) -> Refusal | None:
        """A fault of its own counts first."""
        for earlier in range(self._next, index):
            chat = self._offers[earlier].chat_id
            if chat is not None and self._answers[earlier] is not None:
                self._chats.add(chat)
        self._next = index + 1
        if fault is not None:
            self._chats.add(chat_id)
            return fault
        return after_refused(chat_id) if chat_id in self._chats else None
