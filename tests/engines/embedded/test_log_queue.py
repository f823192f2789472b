"""A queue over the log: how long it waits between tries, and how patient it is with a consumer that hangs."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import Options, Recorder
from tests.manual_clock import turns
from tocsin.engines.embedded.log_queue import PATIENCE_SECONDS
from tocsin.message import Message
from tocsin.topology import WEBSOCKET_FIFO_QUEUE

FIFO = WEBSOCKET_FIFO_QUEUE


async def test_tries_are_a_quarter_of_a_second_and_a_second_apart_and_a_chat_goes_on_within_five(
    stand: EmbeddedHarness,
) -> None:
    tried: list[float] = []

    async def fail(messages: Sequence[Message]) -> None:
        tried.append(stand.clock.monotonic())
        raise RuntimeError("poison")

    await stand.start(consumers={FIFO: fail})
    await stand.publish("c1")
    await stand.settle()
    first, second, third = tried
    assert second - first >= 0.25
    assert third - second >= 1.0
    assert third - first < 5.0


async def test_a_consumer_has_a_quarter_of_a_second_before_another_worker_takes_over(stand: EmbeddedHarness) -> None:
    fifo = Recorder()
    gate = fifo.holds["slow"] = asyncio.Event()
    await stand.start(consumers={FIFO: fifo})
    await stand.publish("c1", "slow")
    await stand.publish("c2", "waits")
    stand.clock.advance(PATIENCE_SECONDS - 0.05)
    await turns()
    assert [message.chat_id for message in fifo.in_flight] == ["c1"]
    gate.set()
    await stand.settle()
    assert [message.chat_id for message in fifo.messages] == ["c1", "c2"]


async def test_a_worker_that_comes_back_failing_has_its_messages_tried_alone(stand: EmbeddedHarness) -> None:
    fifo = Recorder()
    gate = fifo.holds["slow"] = asyncio.Event()
    fifo.failures["slow"] = 1
    await stand.start(consumers={FIFO: fifo})
    await stand.engine.bus.publish([stand.publication(chat, "slow") for chat in ("c1", "c2")])
    await fifo.until(lambda: len(fifo.in_flight) == 2, stand.clock)
    for chat in ("c1", "c2", "c3"):
        await stand.publish(chat, "later")
    await fifo.until(lambda: fifo.contents("c3") == ["later"], stand.clock)
    gate.set()
    await stand.settle()
    assert fifo.contents("c1") == fifo.contents("c2") == ["slow", "later"]
    assert fifo.overtaken == []
    assert await stand.dead_letters() == []


@pytest.mark.parametrize("failpoint", ["deadletter.before", "deadletter.after"])
async def test_a_death_that_was_interrupted_is_gone_through_again(stand: EmbeddedHarness, failpoint: str) -> None:
    fifo = Recorder()
    fifo.failures["poison"] = 100
    await stand.start(Options(failpoints=f"{failpoint}=raise@1"), consumers={FIFO: fifo})
    await stand.publish("c1", "poison")
    await stand.publish("c1", "next")
    await stand.settle()
    (letter,) = await stand.dead_letters()
    assert letter.sequence_number == 1
    assert fifo.contents("c1") == ["next"]


async def test_what_failed_while_the_store_was_away_is_written_down_when_it_is_back(stand: EmbeddedHarness) -> None:
    """The third commit, which would keep the first try, is one that fails."""
    fifo = Recorder()
    fifo.failures["poison"] = 3
    await stand.start(Options(failpoints="commit.before_sync=raise@2"), consumers={FIFO: fifo})
    await stand.publish("c1", "poison")
    await stand.settle()
    (letter,) = await stand.dead_letters()
    assert letter.attempts == 3
    assert fifo.failures["poison"] == 0
