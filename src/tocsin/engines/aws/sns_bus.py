"""Bus on SNS and SQS: publishing is a claim, then SNS; a queue is what Lambda hands over.

    publisher -> publish -> DynamodbClaims -> SNS -> SQS -> Lambda -> handle -> SqsQueue -> its consumer

Rules:
- in waves: wave k holds each chat's k-th message, so no call to SNS holds two of a chat. A call fails by entry, and
  what follows a failed entry must not overtake it;
- a group is a chat, and SNS's own dedupe knows the messageId, never the client's id: that one is claimed before;
- what SNS has taken is accepted; what it was not asked for, or has refused, is definite; a lost answer is unknown;
- near the end of the function's time nothing more is sent: what is left is refused, and has surely not been sent.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from tocsin.bus import Consumer, DeadLetter, Depth, Receipt
from tocsin.clock import Clock
from tocsin.engines.aws.bus_format import message_of, write
from tocsin.engines.aws.calls import PASSING, RETRY_AFTER, Calls, Unreachable, deadline, until
from tocsin.engines.aws.dynamodb_claims import Claim, DynamodbClaims
from tocsin.engines.aws.sqs_queue import Record, SqsQueue
from tocsin.errors import Refusal, after_refused
from tocsin.failpoints import Failpoints
from tocsin.message import Publication
from tocsin.metrics import Metrics
from tocsin.topology import TOPICS, Queue, topic_of

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sns.type_defs import PublishBatchRequestEntryTypeDef, PublishBatchResponseTypeDef

log = logging.getLogger(__name__)

#: So long before the deadline nothing more is sent, in seconds.
MARGIN: Final = 2.0
#: What PublishBatch takes; the bytes are those of all entries with their attributes.
BATCH: Final = 10
BATCH_BYTES: Final = 262_144
#: What an entry has beside its payload: envelope and attributes, at most.
_ENTRY_BYTES: Final = 2_048
DRAIN_SECONDS: Final = 0.2


class _Offer(msgspec.Struct, kw_only=True):
    """A publication on its way into SNS, as it is stamped for good. `index` is its place in the answer."""

    index: int
    publication: Publication
    claim: Claim | None = None

    @property
    def receipt(self) -> Receipt:
        return Receipt(
            message_id=self.publication.message_id,
            timestamp=self.publication.timestamp,
            duplicate=self.claim is not None and not self.claim.mine,
        )


class SnsBus:
    def __init__(
        self,
        *,
        sns: "Calls[SNSClient]",
        topics: Mapping[str, str],
        claims: DynamodbClaims,
        queues: Sequence[SqsQueue],
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
    ) -> None:
        """`topics`: the name of each of topology's -> its ARN."""
        self._sns = sns
        self._topics = topics
        self._claims = claims
        self._queues = {queue.queue.name: queue for queue in queues}
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints

    # -- publishing ----------------------------------------------------------------------------------------------------

    async def publish(
        self, publications: Sequence[Publication], *, chained: bool = False
    ) -> Sequence[Receipt | Refusal]:
        answers: dict[int, Receipt | Refusal] = {}
        chats: dict[str, deque[_Offer]] = {}
        for index, publication in enumerate(publications):
            chats.setdefault(publication.chat_id, deque()).append(_Offer(index=index, publication=publication))
        began, end = self._clock.monotonic(), deadline(self._clock)
        with until(end):
            while chats:
                if self._clock.monotonic() >= end - MARGIN:
                    answers |= {offer.index: _out_of_time() for offers in chats.values() for offer in offers}
                    break
                wave = [offers.popleft() for offers in chats.values()]
                answers |= await self._publish_wave(wave)
                for offer in wave:
                    chat_id = offer.publication.chat_id
                    if chained and isinstance(answers[offer.index], Refusal):
                        answers |= {later.index: after_refused(chat_id) for later in chats[chat_id]}
                        chats[chat_id].clear()
                    if not chats[chat_id]:
                        del chats[chat_id]
        self._metrics.observe("accept_to_commit", self._clock.monotonic() - began)
        return [answers[index] for index in range(len(publications))]

    async def _publish_wave(self, wave: Sequence[_Offer]) -> dict[int, Receipt | Refusal]:
        """One message of each chat, at most."""
        claimed = await asyncio.gather(*map(self._claim, wave))
        answers: dict[int, Receipt | Refusal] = {}
        due: dict[str, list[_Offer]] = {topic.name: [] for topic in TOPICS}
        for offer, refusal in zip(wave, claimed, strict=True):
            if refusal is not None:
                answers[offer.index] = refusal
            elif offer.claim is not None and offer.claim.settled:
                answers[offer.index] = offer.receipt
            else:
                due[topic_of(ordered=offer.publication.ordered).name].append(offer)
        if self._failpoints.armed:
            sent = [message_of(offer.publication) for offers in due.values() for offer in offers]
            await self._failpoints.reach("publish.claimed", sent)
        calls = [self._send(topic, batch) for topic, offers in due.items() for batch in _batches(offers)]
        failures = {index: failure for failed in await asyncio.gather(*calls) for index, failure in failed.items()}
        taken = [offer for offers in due.values() for offer in offers if offer.index not in failures]
        await asyncio.gather(*map(self._settle, taken))
        answers |= {offer.index: offer.receipt for offer in taken}
        return answers | failures

    async def _claim(self, offer: _Offer) -> Refusal | None:
        """Where it repeats an earlier one it becomes that one, stamp and all."""
        publication = offer.publication
        if publication.deduplication_id is None:
            return None
        try:
            offer.claim = await self._claims.claim(publication, self._clock.now())
        except Refusal as refusal:
            return refusal
        offer.publication = msgspec.structs.replace(
            publication, message_id=offer.claim.message_id, timestamp=offer.claim.timestamp
        )
        return None

    async def _settle(self, offer: _Offer) -> None:
        if offer.claim is None:
            return
        try:
            await self._claims.settle(offer.publication, offer.claim.message_id)
        except Unreachable:  # SNS has the message; who repeats it sends it again, and that makes no second one
            log.warning("a claim could not be settled", extra={"letter": offer.publication.message_id})

    async def _send(self, topic: str, offers: Sequence[_Offer]) -> dict[int, Refusal]:
        """Which of them failed, and how. What somebody else has claimed he may have sent: then nothing is definite."""
        shared = {offer.index for offer in offers if offer.claim is not None and not offer.claim.mine}
        entries = {str(offer.index): _entry(offer, fifo=topic == TOPICS[0].name) for offer in offers}
        failures: dict[int, Refusal] = {}
        backoff, definite = self._sns.backoff(), True
        try:
            while entries:
                found = await self._sns(self._publish_batch(topic, list(entries.values())))
                for taken in found["Successful"]:
                    del entries[taken["Id"]]
                for failed in found["Failed"]:
                    definite &= PASSING.get(failed["Code"], False)
                    if failed["Code"] not in PASSING:
                        log.error("SNS refused a message", extra={"code": failed["Code"], "topic": topic})
                        del entries[failed["Id"]]
                        failures[int(failed["Id"])] = Unreachable(definite=False)
                if entries:
                    await backoff.pause()
        except Unreachable as failure:
            definite &= failure.definite
            for index in map(int, entries):
                is_known = definite and index not in shared
                failures[index] = _out_of_time() if is_known else Unreachable(definite=False)
        return failures

    def _publish_batch(
        self, topic: str, entries: "Sequence[PublishBatchRequestEntryTypeDef]"
    ) -> "Callable[[SNSClient], PublishBatchResponseTypeDef]":
        return lambda client: client.publish_batch(TopicArn=self._topics[topic], PublishBatchRequestEntries=entries)

    # -- consuming -----------------------------------------------------------------------------------------------------

    def consume(self, queue: Queue, consumer: Consumer) -> None:
        self._queues[queue.name].consumer = consumer

    async def handle(self, queue: Queue, records: Sequence[Record]) -> list[str]:
        """One batch of Lambda's; the transport ids of what is not done (batchItemFailures)."""
        return await self._queues[queue.name].handle(records)

    # -- for operators -------------------------------------------------------------------------------------------------

    async def dead_letters(
        self, queue: Queue | None = None, *, letter_id: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        ids = None if letter_id is None else [letter_id]
        asked = [one for one, _ in self._meant(ids) if queue in (None, one.queue)]
        lists = await asyncio.gather(*[one.letters.list_letters(letter_id, limit) for one in asked])
        found = [letter for letters in lists for letter in letters]
        return sorted(found, key=lambda letter: (letter.first_failed_at, letter.letter_id))[:limit]

    async def replay(self, letter_ids: Sequence[str] | None) -> int:
        replayed = sum([await queue.letters.replay(ids) for queue, ids in self._meant(letter_ids)])
        self._metrics.count("replays", replayed)
        return replayed

    async def purge(self, letter_ids: Sequence[str] | None) -> int:
        return sum([await queue.letters.purge(ids) for queue, ids in self._meant(letter_ids)])

    def _meant(self, letter_ids: Sequence[str] | None) -> list[tuple[SqsQueue, Collection[str] | None]]:
        """The queues that may have such letters: an id begins with its queue's name."""
        if letter_ids is None:
            return [(queue, None) for queue in self._queues.values()]
        meant = [
            (queue, {one for one in letter_ids if one.startswith(f"{name}:")}) for name, queue in self._queues.items()
        ]
        return [(queue, ids) for queue, ids in meant if ids]

    async def depths(self) -> Sequence[Depth]:
        """As SQS counts: about right, and exact when nothing has moved for a minute. It does not tell the age of the
        oldest (CloudWatch does): it is given as 0."""
        return await asyncio.gather(*[queue.depth() for queue in self._queues.values()])

    async def drain(self) -> None:
        while any(depth.waiting for depth in await self.depths()):
            await self._clock.sleep(DRAIN_SECONDS)


def _out_of_time() -> Refusal:
    """Nothing was sent, or SNS has said that it took nothing: definite."""
    return Refusal("rate_limited", "There are too many messages just now; try again.", retry_after=RETRY_AFTER)


def _entry(offer: _Offer, *, fifo: bool) -> "PublishBatchRequestEntryTypeDef":
    publication = offer.publication
    entry: PublishBatchRequestEntryTypeDef = {
        "Id": str(offer.index),
        "Message": write(message_of(publication)),
        "MessageAttributes": {"targetChannel": {"DataType": "String", "StringValue": publication.target_channel}},
    }
    if fifo:
        entry["MessageGroupId"] = publication.chat_id
        entry["MessageDeduplicationId"] = publication.message_id
    return entry


def _batches(offers: Sequence[_Offer]) -> list[list[_Offer]]:
    """As few as can be, each as SNS takes it."""
    batches: list[list[_Offer]] = []
    room, left = 0, 0
    for offer in offers:
        size = (len(offer.publication.payload) + _ENTRY_BYTES) * 4 // 3  # in base64, at worst
        if not room or size > left:
            batches.append([])
            room, left = BATCH, BATCH_BYTES
        batches[-1].append(offer)
        room, left = room - 1, left - size
    return batches
