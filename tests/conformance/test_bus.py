"""Bus: what is accepted is durable and in order, is handed over until it is done, or dies where it can be seen."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tests.conformance.harness import Harness, Options, Recorder, content_of, refusal_of
from tests.manual_clock import turns
from tocsin.bus import DeadLetter, Receipt
from tocsin.errors import Refusal
from tocsin.message import Message, timestamp_of
from tocsin.topology import MESSAGE_STORAGE_QUEUE, QUEUES, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, Queue

FIFO, STANDARD, STORAGE = WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, MESSAGE_STORAGE_QUEUE
MINUTE = 60.0


def recorders() -> dict[Queue, Recorder]:
    return {queue: Recorder() for queue in QUEUES}


def codes(answers: Sequence[Receipt | Refusal]) -> list[str]:
    return [answer.code if isinstance(answer, Refusal) else "accepted" for answer in answers]


async def depth_of(harness: Harness, queue: Queue) -> tuple[int, float, int]:
    (found,) = [depth for depth in await harness.engine.bus.depths() if depth.queue == queue.name]
    return found.waiting, found.oldest_age, found.dead_letters


# -- publishing ------------------------------------------------------------------------------------------------------


async def test_a_receipt_names_the_message_and_its_time(bare: Harness) -> None:
    one = bare.publication("c1")
    assert await bare.engine.bus.publish([one]) == [Receipt(message_id=one.message_id, timestamp=one.timestamp)]
    assert timestamp_of(one.message_id) == one.timestamp == bare.clock.now()


@pytest.mark.parametrize(
    ("kind", "channel", "numbered", "takers"),
    [
        ("fifo", "WebSocket", True, {FIFO, STORAGE}),
        ("standard", "WebSocket", False, {STANDARD, STORAGE}),
        ("standard", "WebSocket", True, {FIFO, STORAGE}),  # requestSequence: true
        ("fifo", "email", False, {STORAGE}),
        ("standard", "email", False, {STORAGE}),
    ],
)
async def test_a_message_comes_to_the_queues_that_take_it_and_to_no_other(
    stand: Harness, kind: str, channel: str, numbered: bool, takers: set[Queue]
) -> None:
    queues = recorders()
    await stand.start(consumers=queues)
    assert kind in ("fifo", "standard")
    receipt = await stand.publish("c1", kind=kind, channel=channel, numbered=numbered)  # type: ignore[arg-type]
    await stand.settle()
    took = {queue for queue, recorder in queues.items() if recorder.messages}
    assert took == takers
    for queue in takers:
        (message,) = queues[queue].messages
        assert (message.message_id, message.chat_id, message.target_channel) == (receipt.message_id, "c1", channel)
        number = 1 if numbered else None
        if queue is STORAGE and "history_at_once" not in stand.engine.strengths:
            assert message.sequence_number in (number, None)  # it is drawn beside storage
        else:
            assert message.sequence_number == number


async def test_a_chats_messages_come_in_the_order_of_the_calls(stand: Harness) -> None:
    fifo = Recorder()
    await stand.start(consumers={FIFO: fifo})
    batches = [[stand.publication(f"c{chat}", (batch, chat)) for chat in (1, 2, 1)] for batch in range(20)]
    if "pipelined_order" in stand.engine.strengths:
        await asyncio.gather(*[stand.engine.bus.publish(batch) for batch in batches])
    else:
        for batch in batches:
            await stand.engine.bus.publish(batch)
    await stand.settle()
    assert fifo.contents("c1") == [[batch, 1] for batch in range(20) for _ in range(2)]
    assert fifo.contents("c2") == [[batch, 2] for batch in range(20)]


async def test_an_acknowledged_message_outlives_a_crash_and_is_handed_over_after_it(stand: Harness) -> None:
    fifo = Recorder()
    fifo.holds["hello"] = asyncio.Event()
    await stand.start(consumers={FIFO: fifo})
    receipt = await stand.publish("c1", "hello")
    after = Recorder()
    await stand.crash(consumers={FIFO: after})
    await stand.settle()
    assert [message.message_id for message in after.messages] == [receipt.message_id]
    assert await stand.numbered("c1") == [1]


async def test_what_was_done_does_not_come_again_after_a_stop(stand: Harness) -> None:
    await stand.start(consumers=recorders())
    for content in range(5):
        await stand.publish("c1", content)
        await stand.publish("c1", content, kind="standard")
    await stand.settle()
    again = recorders()
    await stand.restart(consumers=again)
    await stand.settle()
    assert not any(recorder.messages for recorder in again.values())


# -- deduplication ---------------------------------------------------------------------------------------------------


async def test_a_repeated_id_gets_the_first_ones_receipt_and_makes_no_second_message(bare: Harness) -> None:
    first = await bare.publish("c1", "hello", id="id-1")
    again = await bare.publish("c1", "hello", id="id-1")
    assert (again.message_id, again.timestamp, again.duplicate) == (first.message_id, first.timestamp, True)
    assert not first.duplicate
    assert await bare.numbered("c1") == [1]
    assert await bare.head("c1") == 1


async def test_a_repeated_id_with_another_body_is_a_conflict(bare: Harness) -> None:
    await bare.publish("c1", "hello", id="id-1")
    assert await refusal_of(bare.publish("c1", "other", id="id-1")) == "idempotency_conflict"
    assert await refusal_of(bare.publish("c1", "hello", id="id-1", kind="standard")) == "idempotency_conflict"
    assert await refusal_of(bare.publish("c1", "hello", id="id-1", channel="email")) == "idempotency_conflict"
    assert len(await bare.history("c1")) == 1


async def test_an_id_is_its_senders_own_and_its_chats(bare: Harness) -> None:
    answers = [
        await bare.publish("c1", id="id-1"),
        await bare.publish("c1", id="id-1", sender="bob"),
        await bare.publish("c2", id="id-1"),
        await bare.publish("c1", id="id-2"),
    ]
    assert [answer.duplicate for answer in answers] == [False] * 4
    assert len({answer.message_id for answer in answers}) == 4


async def test_without_an_id_two_publishes_are_two_messages(bare: Harness) -> None:
    await bare.publish("c1", "same")
    await bare.publish("c1", "same")
    assert await bare.numbered("c1") == [1, 2]


async def test_an_id_that_repeats_within_a_batch_makes_one_message(bare: Harness) -> None:
    first, again, other = await bare.engine.bus.publish(
        [bare.publication("c1", "hello", id="id-1") for _ in range(2)] + [bare.publication("c1", "else", id="id-1")]
    )
    assert isinstance(first, Receipt)
    assert isinstance(again, Receipt)
    assert isinstance(other, Refusal)
    assert (again.message_id, again.duplicate) == (first.message_id, True)
    assert other.code == "idempotency_conflict"
    assert await bare.numbered("c1") == [1]


async def test_of_many_at_once_with_one_id_one_becomes_a_message_and_all_hear_of_it(bare: Harness) -> None:
    answers = await asyncio.gather(*[bare.publish("c1", "hello", id="id-1") for _ in range(10)])
    assert len({answer.message_id for answer in answers}) == 1
    if "dedupe_waits" in bare.engine.strengths:
        assert [answer.duplicate for answer in answers].count(False) == 1
    assert len(await bare.history("c1")) == 1


@pytest.mark.parametrize("life", ["stop", "crash"])
async def test_an_id_is_remembered_across_a_restart(bare: Harness, life: str) -> None:
    first = await bare.publish("c1", "hello", id="id-1")
    await (bare.restart() if life == "stop" else bare.crash())
    again = await bare.publish("c1", "hello", id="id-1")
    assert (again.message_id, again.duplicate) == (first.message_id, True)
    assert await refusal_of(bare.publish("c1", "other", id="id-1")) == "idempotency_conflict"


async def test_an_id_is_remembered_for_five_minutes_at_least_while_others_come(bare: Harness) -> None:
    first = await bare.publish("c1", "hello", id="id-1")
    for minute in range(5):
        bare.clock.advance(MINUTE - 0.001)
        await bare.publish("c1", minute, id=f"other-{minute}")
        assert (await bare.publish("c1", "hello", id="id-1")).message_id == first.message_id


async def test_an_id_is_forgotten_in_the_end(bare: Harness) -> None:
    first = await bare.publish("c1", "hello", id="id-1")
    for minute in range(20):
        bare.clock.advance(MINUTE)
        await bare.publish("c1", minute, id=f"other-{minute}")
    second = await bare.publish("c1", "hello", id="id-1")
    assert second.message_id != first.message_id
    assert not second.duplicate


async def test_beyond_the_bound_an_id_is_refused_and_none_is_forgotten(stand: Harness) -> None:
    await stand.start(Options(claim_capacity=3), consumers={})
    first = await stand.publish("c1", "hello", id="id-0")
    for number in (1, 2):
        await stand.publish("c1", "hello", id=f"id-{number}")
    wait = 0.0
    if "rates" in stand.engine.strengths:
        with pytest.raises(Refusal) as refused:
            await stand.publish("c1", "hello", id="id-3")
        assert refused.value.code == "rate_limited"
        assert refused.value.retry_after is not None
        wait = refused.value.retry_after
    assert (await stand.publish("c1", "hello", id="id-0")).message_id == first.message_id
    assert not (await stand.publish("c1", "hello")).duplicate
    stand.clock.advance(wait)
    assert not (await stand.publish("c1", "hello", id="id-3")).duplicate
    assert len(await stand.history("c1")) == 5


# -- batches ---------------------------------------------------------------------------------------------------------


async def test_in_a_chained_batch_what_follows_a_refused_entry_of_its_chat_is_refused(bare: Harness) -> None:
    await bare.publish("c1", "first", id="id-1")
    batch = [
        bare.publication("c1", 1),
        bare.publication("c1", "other", id="id-1"),
        bare.publication("c2", 2),
        bare.publication("c1", 3, kind="standard"),
        bare.publication("c1", "first", id="id-1"),
        bare.publication("c2", 4),
    ]
    answers = await bare.engine.bus.publish(batch, chained=True)
    expected = ["accepted", "idempotency_conflict", "accepted", "after_refused", "after_refused", "accepted"]
    assert codes(answers) == expected
    assert len(await bare.history("c1")) == 2
    assert await bare.numbered("c2") == [1, 2]


async def test_in_any_other_batch_each_entry_stands_for_itself(bare: Harness) -> None:
    await bare.publish("c1", "first", id="id-1")
    batch = [bare.publication("c1", "other", id="id-1"), bare.publication("c1", 3)]
    assert codes(await bare.engine.bus.publish(batch)) == ["idempotency_conflict", "accepted"]
    assert await bare.numbered("c1") == [1, 2]


# -- handing over ----------------------------------------------------------------------------------------------------


async def test_a_stuck_chat_holds_up_no_other(stand: Harness) -> None:
    fifo = Recorder()
    gate = fifo.holds["stuck"] = asyncio.Event()
    await stand.start(consumers={FIFO: fifo})
    await stand.publish("c1", "stuck")
    await stand.publish("c1", "behind it")
    await stand.publish("c2", 1)
    await fifo.until(lambda: fifo.contents("c2") == [1], stand.clock)
    await stand.publish("c2", 2)
    await stand.publish("c3", 1)
    await fifo.until(lambda: fifo.contents("c2") == [1, 2] and fifo.contents("c3") == [1], stand.clock)
    assert fifo.contents("c1") == []
    gate.set()
    await stand.settle()
    assert fifo.contents("c1") == ["stuck", "behind it"]
    assert fifo.overtaken == []


async def test_a_stuck_standard_message_holds_up_nothing_not_even_its_chat(stand: Harness) -> None:
    standard = Recorder()
    gate = standard.holds["stuck"] = asyncio.Event()
    await stand.start(consumers={STANDARD: standard})
    await stand.publish("c1", "stuck", kind="standard")
    await standard.until(lambda: bool(standard.in_flight), stand.clock)
    await stand.publish("c1", "behind it", kind="standard")
    await standard.until(lambda: standard.contents("c1") == ["behind it"], stand.clock)
    gate.set()
    await stand.settle()
    assert standard.contents("c1") == ["behind it", "stuck"]


async def test_several_stuck_chats_hold_up_no_other(stand: Harness) -> None:
    fifo = Recorder()
    gate = fifo.holds["stuck"] = asyncio.Event()
    await stand.start(consumers={FIFO: fifo})
    for chat in range(3):
        await stand.publish(f"stuck-{chat}", "stuck")
        await fifo.until(lambda chat=chat: len(fifo.in_flight) == chat + 1, stand.clock)  # type: ignore[misc]
        await stand.publish(f"free-{chat}", 1)
        await fifo.until(lambda chat=chat: fifo.contents(f"free-{chat}") == [1], stand.clock)  # type: ignore[misc]
    gate.set()
    await stand.settle()
    assert len({message.chat_id for message in fifo.messages}) == 6


async def test_a_chat_is_never_in_flight_twice_whatever_fails_hangs_or_is_replayed(stand: Harness) -> None:
    fifo = Recorder()
    fifo.failures["poison"] = 3
    await stand.start(consumers={FIFO: fifo})
    await stand.publish("c1", "poison")
    await stand.settle()
    gate = fifo.holds["slow"] = asyncio.Event()
    await stand.publish("c1", "slow")
    await fifo.until(lambda: bool(fifo.in_flight), stand.clock)
    (letter,) = await stand.dead_letters()
    await stand.engine.bus.replay([letter.letter_id])
    await stand.publish("c1", "last")
    await stand.publish("c2", "other")
    await fifo.until(lambda: fifo.contents("c2") == ["other"], stand.clock)
    gate.set()
    await stand.settle()
    assert fifo.overtaken == []
    assert sorted(map(str, fifo.contents("c1"))) == ["last", "poison", "slow"]
    assert fifo.contents("c1").index("slow") < fifo.contents("c1").index("last")


async def test_drain_waits_for_all_that_was_accepted(stand: Harness) -> None:
    queues = recorders()
    gate = queues[FIFO].holds["slow"] = asyncio.Event()
    await stand.start(consumers=queues)
    await stand.publish("c1", "slow")
    await stand.publish("c1", "quick", kind="standard")
    drained = asyncio.ensure_future(stand.engine.bus.drain())
    await queues[FIFO].until(lambda: bool(queues[FIFO].in_flight), stand.clock)
    await queues[STANDARD].until(lambda: bool(queues[STANDARD].messages), stand.clock)
    assert not drained.done()
    gate.set()
    await stand.clock.run(drained)
    assert [len(recorder.messages) for recorder in queues.values()] == [1, 1, 2]


async def test_a_queues_depth_and_age_say_what_waits(stand: Harness) -> None:
    fifo = Recorder()
    gate = fifo.holds["slow"] = asyncio.Event()
    await stand.start(consumers={FIFO: fifo})
    assert await depth_of(stand, FIFO) == (0, 0.0, 0)
    await stand.publish("c1", "slow")
    stand.clock.advance(5)
    await stand.publish("c1", "next")
    waiting, age, dead = await depth_of(stand, FIFO)
    assert (waiting, dead) == (2, 0)
    if "queue_age" in stand.engine.strengths:
        assert age == pytest.approx(5, abs=1)
    gate.set()
    await stand.settle()
    assert await depth_of(stand, FIFO) == (0, 0.0, 0)
    assert await depth_of(stand, STORAGE) == (0, 0.0, 0)


# -- failing ---------------------------------------------------------------------------------------------------------


class Poisoned:
    """A consumer that fails for what holds "poison", and writes down each message that was tried alone."""

    def __init__(self) -> None:
        self.is_cured = False
        self.tried: list[object] = []
        self.done: list[object] = []

    async def __call__(self, messages: Sequence[Message]) -> None:
        contents = [content_of(message) for message in messages]
        if len(contents) == 1:
            self.tried += contents
        if not self.is_cured and any("poison" in str(content) for content in contents):
            raise RuntimeError("it tastes of poison")
        self.done += contents


@pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
async def test_a_message_is_tried_three_times_and_then_a_dead_letter(stand: Harness, queue: Queue) -> None:
    consumer = Poisoned()
    await stand.start(consumers={queue: consumer})
    kind = "standard" if queue is STANDARD else "fifo"
    began = stand.clock.now()
    receipt = await stand.publish("c1", "poison", kind=kind)  # type: ignore[arg-type]
    await stand.settle()
    assert consumer.tried == ["poison"] * 3
    (letter,) = await stand.dead_letters()
    assert (letter.queue, letter.message_id, letter.chat_id) == (queue.name, receipt.message_id, "c1")
    assert (letter.attempts, letter.sequence_number) == (3, 1 if kind == "fifo" else None)
    assert letter.reason == "RuntimeError: it tastes of poison"
    assert began <= letter.first_failed_at < letter.last_failed_at <= stand.clock.now()
    (row,) = await stand.history("c1")
    assert bytes(letter.body) == (await only_body(stand, "c1"))
    assert row["payload"]["content"] == "poison"
    assert (await depth_of(stand, queue))[::2] == (0, 1)
    assert await stand.dead_letters(queue) == [letter]
    for other in set(QUEUES) - {queue}:
        assert await stand.dead_letters(other) == []


async def only_body(harness: Harness, chat_id: str) -> bytes:
    page = await harness.engine.messages.by_time(chat_id, None, None, ascending=True, after=None, limit=2)
    (body,) = page.bodies
    return body


async def test_the_chat_goes_on_behind_a_dead_letter_in_order(stand: Harness) -> None:
    consumer = Poisoned()
    await stand.start(consumers={FIFO: consumer})
    await stand.publish_many("c1", ["before", "poison", "after 1", "after 2"])
    await stand.publish("c2", "other")
    await stand.settle()
    await stand.publish("c1", "after 3")
    await stand.settle()
    assert [content for content in consumer.done if content != "other"] == ["before", "after 1", "after 2", "after 3"]
    assert [letter.sequence_number for letter in await stand.dead_letters()] == [2]
    assert await stand.numbered("c1") == [1, 2, 3, 4, 5]


async def test_nothing_of_a_chat_overtakes_a_message_that_is_being_tried_again(stand: Harness) -> None:
    fifo = Recorder()
    fifo.failures["poison"] = 2
    await stand.start(consumers={FIFO: fifo})
    await stand.publish("c1", "poison")
    await fifo.until(lambda: fifo.failures["poison"] == 1, stand.clock)
    await stand.publish("c1", "behind it")
    await stand.settle()
    assert fifo.contents("c1") == ["poison", "behind it"]
    assert await stand.dead_letters() == []


async def test_only_the_guilty_one_of_a_batch_dies(stand: Harness) -> None:
    consumer = Poisoned()
    await stand.start(consumers={FIFO: consumer, STANDARD: consumer, STORAGE: consumer})
    batch = [stand.publication(f"c{chat}", f"{chat}") for chat in range(10)] + [stand.publication("bad", "poison")]
    await stand.engine.bus.publish([*batch, stand.publication("bad", "standard poison", kind="standard")])
    await stand.settle()
    assert {letter.chat_id for letter in await stand.dead_letters()} == {"bad"}
    assert consumer.tried.count("poison") == consumer.tried.count("standard poison") == 3 * 2  # live and storage
    assert set(consumer.done) == {f"{chat}" for chat in range(10)}


@pytest.mark.parametrize("life", ["stop", "crash"])
async def test_attempts_are_counted_on_after_a_restart(stand: Harness, life: str) -> None:
    before, after = Recorder(), Poisoned()
    before.failures["poison"] = 2
    await stand.start(consumers={FIFO: before})
    await stand.publish("c1", "poison")
    await before.until(lambda: before.failures["poison"] == 0, stand.clock)
    before.holds["poison"] = asyncio.Event()
    await before.until(lambda: bool(before.in_flight), stand.clock)
    await (stand.restart if life == "stop" else stand.crash)(consumers={FIFO: after})
    await stand.settle()
    assert after.tried == ["poison"]
    (letter,) = await stand.dead_letters()
    assert letter.attempts == 3


async def test_a_message_of_which_every_try_ends_in_a_crash_dies_too(stand: Harness) -> None:
    lives = [Recorder() for _ in range(5)]
    for fifo in lives:
        fifo.holds["deadly"] = asyncio.Event()
    await stand.start(consumers={FIFO: lives[0]})
    await stand.publish("c1", "deadly")
    for before, after in pairwise(lives):  # in a batch, which counts for nothing, and three times alone
        await before.until(lambda before=before: bool(before.in_flight), stand.clock)  # type: ignore[misc]
        await stand.crash(consumers={FIFO: after})
    await stand.settle()
    (letter,) = await stand.dead_letters()
    assert letter.attempts == 3
    assert letter.reason.startswith("no_verdict")
    assert lives[-1].in_flight == []


@pytest.mark.parametrize("life", ["stop", "crash"])
async def test_a_dead_letter_stays_dead_after_a_restart(stand: Harness, life: str) -> None:
    fifo, after = Recorder(), Recorder()
    fifo.failures["poison"] = 3
    gate = fifo.holds["stuck"] = asyncio.Event()
    await stand.start(consumers={FIFO: fifo})
    await stand.publish("c0", "stuck")  # holds up what the queue has passed, as a whole
    await fifo.until(lambda: bool(fifo.in_flight), stand.clock)
    await stand.publish("c1", "poison")
    await stand.clock.run(until_dead(stand, 1))
    (letter,) = await stand.dead_letters()
    await (stand.restart if life == "stop" else stand.crash)(consumers={FIFO: after})
    await stand.settle()
    gate.set()
    assert after.contents("c1") == []
    assert await stand.dead_letters() == [letter]
    assert after.contents("c0") == ["stuck"]


async def until_dead(harness: Harness, number: int) -> None:
    while len(await harness.dead_letters()) < number:
        await harness.clock.sleep(0.02)


async def test_a_replayed_letter_keeps_its_id_and_its_number(stand: Harness) -> None:
    consumer = Poisoned()
    fifo = Recorder()

    async def both(messages: Sequence[Message]) -> None:
        await consumer(messages)
        await fifo(messages)

    await stand.start(consumers={FIFO: both})
    await stand.publish_many("c1", ["poison", "next"])
    await stand.settle()
    (letter,) = await stand.dead_letters()
    consumer.is_cured = True
    assert await stand.engine.bus.replay([letter.letter_id]) == 1
    await stand.settle()
    replayed = fifo.messages[-1]
    assert (replayed.message_id, replayed.sequence_number) == (letter.message_id, 1)
    assert replayed.body == bytes(letter.body)
    assert await stand.dead_letters() == []
    assert await stand.numbered("c1") == [1, 2]
    assert await stand.engine.bus.replay([letter.letter_id]) == 0


async def test_a_replayed_letter_that_fails_again_is_tried_three_times_again(stand: Harness) -> None:
    consumer = Poisoned()
    await stand.start(consumers={FIFO: consumer})
    await stand.publish("c1", "poison")
    await stand.settle()
    (letter,) = await stand.dead_letters()
    await stand.engine.bus.replay([letter.letter_id])
    await stand.settle()
    assert consumer.tried == ["poison"] * 6
    (again,) = await stand.dead_letters()
    assert (again.message_id, again.attempts) == (letter.message_id, 3)


@pytest.mark.parametrize("act", ["replay", "purge"])
async def test_replaying_or_purging_what_is_no_letter_does_nothing(stand: Harness, act: str) -> None:
    await stand.start(consumers={FIFO: Poisoned()})
    await stand.publish("c1", "poison")
    await stand.settle()
    bus = stand.engine.bus
    assert await (bus.replay if act == "replay" else bus.purge)(["0", "999999", "nonsense", "-1", "1; DROP", "¹"]) == 0
    assert len(await stand.dead_letters()) == 1


async def test_a_purged_letter_is_gone_and_the_others_stay(stand: Harness) -> None:
    await stand.start(consumers={FIFO: Poisoned()})
    await stand.publish_many("c1", ["poison 1", "poison 2"])
    await stand.settle()
    first, second = await stand.dead_letters()
    assert await stand.engine.bus.purge([first.letter_id]) == 1
    assert await stand.dead_letters() == [second]
    await stand.restart()
    assert await stand.dead_letters() == [second]
    assert await stand.numbered("c1") == [1, 2]


async def test_letters_are_listed_up_to_a_limit_oldest_first(stand: Harness) -> None:
    await stand.start(consumers={FIFO: Poisoned()})
    for chat in range(3):
        await stand.publish(f"c{chat}", "poison")
        await stand.settle()
    letters: Sequence[DeadLetter] = await stand.engine.bus.dead_letters(limit=2)
    assert [letter.chat_id for letter in letters] == ["c0", "c1"]


async def test_a_letter_is_found_by_its_id(stand: Harness) -> None:
    await stand.start(consumers={FIFO: Poisoned()})
    await stand.publish_many("c1", ["poison 1", "poison 2"])
    await stand.settle()
    _, second = await stand.dead_letters()
    bus = stand.engine.bus
    assert await bus.dead_letters(letter_id=second.letter_id) == [second]
    assert await bus.dead_letters(FIFO, letter_id=second.letter_id) == [second]
    assert await bus.dead_letters(STORAGE, letter_id=second.letter_id) == []
    for unknown in ("0", "999999", "nonsense", "", "-1", "¹", "9" * 5_000):
        assert await bus.dead_letters(letter_id=unknown) == []


@pytest.mark.parametrize("act", ["replay", "purge"])
async def test_all_letters_are_those_that_are_dead_when_it_is_asked(stand: Harness, act: str) -> None:
    consumer = Poisoned()
    await stand.start(consumers={FIFO: consumer})
    for chat in range(3):
        await stand.publish(f"c{chat}", "poison")
    await stand.settle()
    tried = len(consumer.tried)
    await stand.publish("later", "poison")
    await stand.clock.run(until_tried(consumer, tried + 1))
    bus = stand.engine.bus
    assert await (bus.replay if act == "replay" else bus.purge)(None) == 3
    consumer.is_cured = act == "replay"
    await stand.settle()
    assert [letter.chat_id for letter in await stand.dead_letters()] == ([] if act == "replay" else ["later"])
    assert await (bus.replay if act == "replay" else bus.purge)(None) == (0 if act == "replay" else 1)


async def until_tried(consumer: Poisoned, times: int) -> None:
    while len(consumer.tried) < times:
        await turns()
