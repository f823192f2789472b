"""Bus, numbers and messages against a model of them: a list for each chat, and what each id was used for."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from tests.conformance.examples import EngineMachine, Make, run_machine
from tests.conformance.harness import Recorder
from tocsin.bus import Consumer, Receipt
from tocsin.errors import Refusal
from tocsin.message import MessageType, Publication
from tocsin.topology import WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, Queue

WINDOW = 5 * 60.0


class Wanted(msgspec.Struct, frozen=True):
    chat_id: str
    kind: MessageType
    channel: str
    asks: bool
    id: str | None
    content: int


WANTED = st.builds(
    Wanted,
    chat_id=st.sampled_from(["c1", "c2", "c3"]),
    kind=st.sampled_from(["fifo", "fifo", "standard"]),
    channel=st.sampled_from(["WebSocket", "WebSocket", "WebSocket", "email"]),
    asks=st.booleans(),
    id=st.sampled_from([None, None, "id-1", "id-2"]),
    content=st.integers(0, 1),
)
Claim = tuple[bytes, str, float]


class BusMachine(EngineMachine):
    def __init__(self) -> None:
        self.queues: dict[Queue, list[Recorder]] = {WEBSOCKET_FIFO_QUEUE: [], WEBSOCKET_STANDARD_QUEUE: []}
        self.chats: dict[str, list[Publication]] = defaultdict(list)
        #: (chat, id) -> what it was used for, its message, when.
        self.claims: dict[tuple[str, str], Claim] = {}
        super().__init__()

    def consumers(self) -> Mapping[Queue, Consumer]:
        for recorders in self.queues.values():
            recorders.append(Recorder())
        return {queue: recorders[-1] for queue, recorders in self.queues.items()}

    # What is done

    @rule(batch=st.lists(WANTED, min_size=1, max_size=5), chained=st.booleans())
    def publish(self, batch: list[Wanted], chained: bool) -> None:
        publications = [
            self.harness.publication(
                one.chat_id,
                one.content,
                kind=one.kind,
                channel=one.channel,
                id=one.id,
                numbered=one.channel == "WebSocket" and (one.kind == "fifo" or one.asks),
            )
            for one in batch
        ]
        answers = self.run(self._publish(publications, chained))
        refused: set[str] = set()
        for publication, answer in zip(publications, answers, strict=True):
            if publication.chat_id in refused:
                assert isinstance(answer, Refusal)
                assert answer.code == "after_refused"
            elif not self.agrees(publication, answer) and chained:
                refused.add(publication.chat_id)

    async def _publish(self, publications: list[Publication], chained: bool) -> Sequence[Receipt | Refusal]:
        return await self.harness.engine.bus.publish(publications, chained=chained)

    def agrees(self, publication: Publication, answer: Receipt | Refusal) -> bool:
        """Checks an answer against the model and writes it down there; whether it was accepted."""
        now = self.harness.clock.monotonic()
        key = (publication.chat_id, publication.deduplication_id or "")
        fingerprint = publication.fingerprint()
        known = self.claims.get(key) if publication.deduplication_id else None
        if known is not None:
            first, message_id, at = known
            if isinstance(answer, Refusal):
                assert (answer.code, fingerprint != first) == ("idempotency_conflict", True)
                return False
            if answer.duplicate:
                assert (answer.message_id, fingerprint) == (message_id, first)
                return True
            assert now - at > WINDOW
        assert answer == Receipt(message_id=publication.message_id, timestamp=publication.timestamp)
        self.chats[publication.chat_id].append(publication)
        if publication.deduplication_id:
            self.claims[key] = (fingerprint, publication.message_id, now)
        return True

    @rule(seconds=st.sampled_from([0.001, 1, 59, 61, 299, 400]))
    def let_time_pass(self, seconds: float) -> None:
        self.harness.clock.advance(seconds)

    @rule()
    def settle(self) -> None:
        self.run(self.harness.settle())

    @rule(crashes=st.booleans())
    def restart(self, crashes: bool) -> None:
        consumers = self.consumers()
        self.run(self.harness.crash(consumers=consumers) if crashes else self.harness.restart(consumers=consumers))

    # What holds at every moment

    @invariant()
    def history_is_what_was_accepted(self) -> None:
        self.run(self._history_is_what_was_accepted())

    async def _history_is_what_was_accepted(self) -> None:
        for chat_id, accepted in self.chats.items():
            rows = await self.harness.history(chat_id)
            ids = [row["messageId"] for row in rows]
            numbers = [row["sequenceNumber"] for row in rows if "sequenceNumber" in row]
            head = (await self.harness.engine.numbers.heads([chat_id]))[chat_id]
            assert ids == [one.message_id for one in accepted]
            assert numbers == list(range(1, len([one for one in accepted if one.numbered]) + 1))
            assert (head.sequence, head.oldest) == (len(numbers), 1)
            assert await self.harness.numbered(chat_id) == numbers

    def conclude(self) -> None:
        self.run(self.harness.settle())
        for queue, recorders in self.queues.items():
            self.check_queue(queue, recorders)

    def check_queue(self, queue: Queue, lives: list[Recorder]) -> None:
        """Each message was handed over, in a FIFO chat in order, and in one life once."""
        handed_over: dict[str, dict[str, None]] = defaultdict(dict)
        for recorder in lives:
            assert recorder.overtaken == []
            ids = [message.message_id for message in recorder.messages]
            assert len(set(ids)) == len(ids)
            for message in recorder.messages:
                handed_over[message.chat_id][message.message_id] = None
        for chat_id, accepted in self.chats.items():
            due = [one.message_id for one in accepted if taken_by(queue, one)]
            done = list(handed_over[chat_id])
            assert (done if queue.fifo else sorted(done)) == due


def taken_by(queue: Queue, publication: Publication) -> bool:
    return publication.target_channel == "WebSocket" and publication.ordered == queue.fifo


def test_whatever_is_published_and_whenever_it_restarts_the_bus_keeps_its_promises(make_harness: Make) -> None:
    run_machine(BusMachine, make_harness)
