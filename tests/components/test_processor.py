"""Processor: the number first, the audience second; who turns out to be gone is forgotten."""

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import Options
from tocsin.message import Message, read_back


async def committed(harness: EmbeddedHarness, chat_id: str) -> list[Message]:
    page = await harness.engine.messages.by_time(chat_id, None, None, ascending=True, after=None, limit=100)
    return [read_back(body) for body in page.bodies]


async def test_messages_of_a_chat_that_nobody_hears_are_done_at_once(harness: EmbeddedHarness) -> None:
    await harness.publish("c1")
    await harness.service.processor.process(await committed(harness, "c1"))
    await harness.settle()
    assert await harness.dead_letters() == []


async def test_one_batch_goes_to_the_listeners_of_every_chat_in_it(harness: EmbeddedHarness) -> None:
    alice, bob = await harness.member("alice", "c1"), await harness.member("bob", "c2")
    await harness.engine.bus.publish([harness.publication(f"c{index % 3 + 1}", index) for index in range(9)])
    await harness.settle()
    assert [frame["payload"]["content"] for frame in harness.heard(alice, "c1")] == [0, 3, 6]
    assert [frame["payload"]["content"] for frame in harness.heard(bob, "c2")] == [1, 4, 7]


async def test_who_subscribes_while_it_stands_before_the_audience_is_read_hears_the_message(
    stand: EmbeddedHarness,
) -> None:
    """The number is committed; the new listener's head has it, and so has his replay."""
    await stand.start(Options(failpoints="processor.before_audience=stall:5"))
    await stand.grant("alice", "c1", "member")
    await stand.publish("c1", 1)
    alice = await stand.connect("alice")
    await alice.subscribe("c1", last=0)
    await stand.publish("c1", 2)
    await stand.settle()
    assert stand.numbers(alice, "c1") == [1, 2]


@pytest.mark.parametrize("failpoint", ["processor.before_audience", "processor.done"])
async def test_poison_marked_by_its_text_dies_alone(stand: EmbeddedHarness, failpoint: str) -> None:
    await stand.start(Options(failpoints=f"{failpoint}=raise~POISON"))
    alice = await stand.member("alice", "c1")
    await stand.publish_many("c1", ["one", "POISON", "three"])
    await stand.settle()
    (letter,) = await stand.dead_letters()
    assert (letter.sequence_number, letter.attempts) == (2, 3)
    assert {1, 3} <= set(stand.numbers(alice, "c1"))


async def test_how_long_delivery_took_is_measured(harness: EmbeddedHarness) -> None:
    await harness.publish("c1")
    await harness.settle()
    count = harness.embedded.metrics.registry.get_sample_value("tocsin_commit_to_delivery_count")
    assert count == 1
