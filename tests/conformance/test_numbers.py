"""Numbers: in one chat 1..n, committed with their messages, found again and never drawn twice."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.conformance.harness import DAY, Harness, Options, Recorder, poison
from tocsin.errors import Refusal
from tocsin.message import Message
from tocsin.topology import MESSAGE_STORAGE_QUEUE, WEBSOCKET_FIFO_QUEUE


async def test_the_numbers_of_a_chat_are_one_two_three(bare: Harness) -> None:
    await bare.publish("c1")
    await bare.publish_many("c1", ["two", "three"])
    await bare.publish("c2")
    assert (await bare.numbered("c1"), await bare.numbered("c2")) == ([1, 2, 3], [1])
    assert (await bare.head("c1"), await bare.head("c2")) == (3, 1)


async def test_only_what_asks_for_a_number_has_one(bare: Harness) -> None:
    await bare.publish("c1", "plain", kind="standard")
    await bare.publish("c1", "asked for", kind="standard", numbered=True)
    await bare.publish("c1", "other channel", channel="email")
    await bare.publish("c1", "fifo")
    rows = await bare.history("c1")
    assert [row.get("sequenceNumber") for row in rows] == [None, 1, None, 2]
    assert await bare.numbered("c1") == [1, 2]
    assert await bare.head("c1") == 2


async def test_those_who_publish_at_once_get_numbers_without_gap_or_repeat(bare: Harness) -> None:
    await asyncio.gather(*[bare.publish(f"c{index % 3}", index) for index in range(60)])
    for chat in range(3):
        assert await bare.numbered(f"c{chat}") == list(range(1, 21))


async def test_who_was_acknowledged_before_another_began_has_the_smaller_number(bare: Harness) -> None:
    contents = []
    for index in range(20):
        await bare.publish("c1", index)
        contents.append(index)
    rows = await bare.history("c1")
    assert [row["payload"]["content"] for row in rows] == contents


async def test_numbering_a_message_again_finds_its_number(stand: Harness) -> None:
    fifo = Recorder()
    await stand.start(consumers={WEBSOCKET_FIFO_QUEUE: fifo})
    await stand.publish_many("c1", ["one", "two"])
    await stand.settle()
    numbers = stand.engine.numbers
    first = await numbers.number(fifo.messages)
    again = await numbers.number(fifo.messages)
    assert [message.sequence_number for message in first] == [1, 2]
    assert [message.body for message in again] == [message.body for message in first]
    assert await stand.head("c1") == 2


@pytest.mark.parametrize("life", ["stop", "crash"])
async def test_numbers_go_on_after_a_restart(bare: Harness, life: str) -> None:
    await bare.publish_many("c1", ["one", "two"])
    await bare.settle()
    await bare.publish("c1", "three")  # in the log, but perhaps not in storage
    await (bare.restart() if life == "stop" else bare.crash())
    await bare.stored()
    assert await bare.head("c1") == 3
    await bare.publish("c1", "four")
    await bare.settle()
    await (bare.restart() if life == "stop" else bare.crash())
    await bare.publish("c1", "five")
    assert await bare.numbered("c1") == [1, 2, 3, 4, 5]


async def test_an_unknown_chat_has_head_zero_and_begins_at_one(bare: Harness) -> None:
    heads = await bare.engine.numbers.heads(["nobody", "nowhere"])
    assert [(head.sequence, head.oldest) for head in heads.values()] == [(0, 1), (0, 1)]
    await bare.publish("nobody", "plain", kind="standard")
    head = (await bare.engine.numbers.heads(["nobody"]))["nobody"]
    assert (head.sequence, head.oldest) == (0, 1)


async def test_the_epoch_is_the_stores_and_outlives_a_restart(bare: Harness) -> None:
    before = (await bare.engine.numbers.heads(["c1"]))["c1"].epoch
    await bare.restart()
    heads = await bare.engine.numbers.heads(["c1", "c2"])
    assert {head.epoch for head in heads.values()} == {before}
    assert before


async def test_no_head_is_below_a_number_that_anyone_has_heard(stand: Harness) -> None:
    behind: list[int] = []

    async def hear(messages: Sequence[Message]) -> None:
        for message in messages:
            head = (await stand.engine.numbers.heads([message.chat_id]))[message.chat_id]
            assert message.sequence_number is not None
            if head.sequence < message.sequence_number:
                behind.append(message.sequence_number)

    await stand.start(consumers={WEBSOCKET_FIFO_QUEUE: hear})
    for round_ in range(10):
        await asyncio.gather(*[stand.publish(f"c{index % 4}", round_) for index in range(12)])
    await stand.settle()
    assert behind == []
    assert await stand.dead_letters() == []


async def test_a_refused_publish_draws_no_number(bare: Harness) -> None:
    await bare.publish("c1", "one", id="id-1")
    with pytest.raises(Refusal):
        await bare.publish("c1", "other", id="id-1")
    await bare.publish("c1", "one", id="id-1")
    await bare.publish("c1", "two")
    assert await bare.numbered("c1") == [1, 2]


async def test_a_number_whose_message_could_not_be_stored_is_not_drawn_again(bare: Harness) -> None:
    bare.meddle(MESSAGE_STORAGE_QUEUE, poison("last"))
    await bare.publish_many("c1", ["first", "last"])
    await bare.settle()
    for _ in range(2):
        await bare.restart()
        await bare.settle()
    assert await bare.head("c1") == 2
    await bare.publish("c1", "next")
    assert await bare.numbered("c1") == [1, 2, 3]


async def test_the_oldest_is_the_first_number_that_has_not_expired(stand: Harness) -> None:
    await stand.start(Options(retention=10 * DAY), consumers={})
    for day in range(5):
        await stand.publish("c1", day)
        await stand.settle()
        stand.clock.advance(86_400)
    oldest = []
    for _ in range(12):
        head = (await stand.engine.numbers.heads(["c1"]))["c1"]
        assert head.sequence == 5
        oldest.append(head.oldest)
        stand.clock.advance(86_400)
    assert oldest == sorted(oldest)
    assert (oldest[0], oldest[-1]) == (1, 6)
    await stand.publish("c1", "sixth")
    await stand.stored()
    head = (await stand.engine.numbers.heads(["c1"]))["c1"]
    assert (head.sequence, head.oldest) == (6, 6)
    await stand.restart()
    assert (await stand.engine.numbers.heads(["c1"]))["c1"] == head


async def test_the_oldest_never_falls_not_even_when_the_clock_is_set_back(stand: Harness) -> None:
    await stand.start(Options(retention=10 * DAY), consumers={})
    await stand.publish_many("c1", [1, 2])
    await stand.settle()
    stand.clock.advance(11 * 86_400)
    await stand.publish("c1", 3)
    assert (await stand.engine.numbers.heads(["c1"]))["c1"].oldest == 3
    stand.clock.jump(-5 * DAY)
    assert (await stand.engine.numbers.heads(["c1"]))["c1"].oldest == 3


async def test_a_number_that_only_a_dead_letter_has_is_still_the_oldest(bare: Harness) -> None:
    bare.meddle(MESSAGE_STORAGE_QUEUE, poison("first"))
    await bare.publish_many("c1", ["first", "second"])
    await bare.settle()
    await bare.restart()
    assert (await bare.engine.numbers.heads(["c1"]))["c1"].oldest == 1
    assert await bare.numbered("c1") == [1, 2]
