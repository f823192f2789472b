"""A start takes up the log where the last process left it, and the log is trimmed when all have passed."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import Options, Recorder, poison
from tocsin.engines.embedded import storage_queue
from tocsin.engines.embedded.group_commit import MAX_BATCH, MAX_UNMOVED
from tocsin.message import Message
from tocsin.topology import MESSAGE_STORAGE_QUEUE, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE

FIFO, STANDARD, STORAGE = WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE, MESSAGE_STORAGE_QUEUE


async def rows(harness: EmbeddedHarness, table: str) -> int:
    found = await harness.embedded.bus.commits.write(
        lambda connection: connection.execute(f"SELECT count(*) FROM {table}").get
    )
    assert isinstance(found, int)
    return found


async def hold(messages: Sequence[Message]) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("life", ["stop", "crash"])
async def test_a_log_that_was_not_moved_is_read_numbered_on_and_moved_after_the_start(
    stand: EmbeddedHarness, life: str
) -> None:
    await stand.start(consumers={STORAGE: hold})
    for index in range(30):
        await stand.publish(f"c{index % 3}", index, kind="standard" if index % 5 == 4 else "fifo")
    assert await rows(stand, "message_storage") == 0
    await (stand.restart if life == "stop" else stand.crash)(consumers={})
    before = [await stand.history(f"c{chat}") for chat in range(3)]
    heads = [await stand.head(f"c{chat}") for chat in range(3)]
    assert [[row["payload"]["content"] for row in chat] for chat in before] == [
        list(range(chat, 30, 3)) for chat in range(3)
    ]
    for chat in range(3):
        await stand.publish(f"c{chat}", "after")
    await stand.settle()
    assert (await rows(stand, "message_storage"), await rows(stand, "log")) == (33, 0)
    for chat in range(3):
        assert (await stand.history(f"c{chat}"))[:-1] == before[chat]
        assert await stand.numbered(f"c{chat}") == list(range(1, heads[chat] + 2))


@pytest.mark.slow
async def test_the_longest_log_there_may_be_is_taken_up_in_a_second_and_a_half(stand: EmbeddedHarness) -> None:
    """Of CPU; what else a start does takes less than the half second that is left of two."""
    await stand.start(consumers={STORAGE: hold})
    for first in range(0, MAX_UNMOVED, MAX_BATCH):
        batch = [stand.publication(f"c{index % 1_000}", index) for index in range(first, first + MAX_BATCH)]
        await stand.engine.bus.publish(batch)
    await stand.stop()
    began = time.process_time()
    await stand.start()
    assert time.process_time() - began < 1.5
    assert stand.embedded.bus.commits.unmoved == MAX_UNMOVED
    assert [await stand.head(f"c{chat}") for chat in (0, 999)] == [MAX_UNMOVED // 1_000] * 2


async def test_ids_and_positions_ascend_after_a_start_with_an_empty_log(stand: EmbeddedHarness) -> None:
    seen: list[tuple[str, int]] = []

    async def see(messages: Sequence[Message]) -> None:
        seen.extend((message.message_id, message.position) for message in messages)

    await stand.start(consumers={FIFO: see})
    for life in range(3):
        for _ in range(3):
            await stand.publish("c1")
        await stand.settle()
        assert await rows(stand, "log") == 0
        stand.clock.jump(-3_600_000)
        await stand.restart()
        assert len(seen) == 3 * (life + 1)
    assert seen == sorted(seen)
    assert len({position for _, position in seen}) == 9


async def test_a_stuck_chat_pins_the_log_until_it_goes_on(stand: EmbeddedHarness) -> None:
    fifo = Recorder()
    gate = fifo.holds["stuck"] = asyncio.Event()
    await stand.start(consumers={FIFO: fifo})
    await stand.publish("c0", "before")
    await stand.settle()
    await stand.publish("c1", "stuck")
    await fifo.until(lambda: bool(fifo.in_flight), stand.clock)
    for index in range(5):
        await stand.publish("c2", index)
    await fifo.until(lambda: len(fifo.contents("c2")) == 5, stand.clock)
    await stand.clock.run(moved(stand, 7))
    assert await rows(stand, "log") == 6
    gate.set()
    await stand.settle()
    await stand.clock.run(trimmed(stand))


async def moved(harness: EmbeddedHarness, number: int) -> None:
    while await rows(harness, "message_storage") < number:
        await harness.clock.sleep(0.5)


async def trimmed(harness: EmbeddedHarness) -> None:
    while await rows(harness, "log"):
        await harness.clock.sleep(0.5)


async def test_after_a_crash_only_what_was_not_done_comes_again(stand: EmbeddedHarness) -> None:
    before, after = Recorder(), Recorder()
    before.holds["stuck"] = asyncio.Event()
    await stand.start(consumers={FIFO: before})
    await stand.publish("c1", "done")
    await stand.clock.run(stand.processed())
    await stand.publish("c2", "stuck")
    await before.until(lambda: bool(before.in_flight), stand.clock)
    await stand.publish("c1", "done too")
    await stand.publish("c2", "behind it")
    await before.until(lambda: before.contents("c1") == ["done", "done too"], stand.clock)
    await stand.crash(consumers={FIFO: after})
    await stand.settle()
    # "done too" lies behind what was stuck: whether it was done is not written down.
    assert after.contents("c1") == ["done too"]
    assert after.contents("c2") == ["stuck", "behind it"]
    assert await rows(stand, "undelivered") == 0


async def test_a_start_with_an_empty_log_does_not_trim_it_from_the_beginning(stand: EmbeddedHarness) -> None:
    await stand.start(consumers={})
    for queue in ("WebSocketFifoQueue", "WebSocketStandardQueue", "MessageStorageQueue"):
        stand.embedded.folder.writer.execute("INSERT INTO queue_cursor VALUES (?, 50000000)", (queue,))
    await stand.restart()
    await stand.publish("c1")
    await stand.settle()
    await stand.clock.run(trimmed(stand))
    assert stand.embedded.folder.writer.total_changes() < 50
    assert await stand.numbered("c1") == [1]


async def test_what_is_moved_in_many_slices_is_whole_and_in_order(
    stand: EmbeddedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_queue, "SLICE", 7)
    slices: list[list[str]] = []

    async def note(messages: Sequence[Message]) -> None:
        slices.append([message.chat_id for message in messages])

    await stand.start(consumers={})
    stand.meddle(STORAGE, note)
    for chat, number in (("c1", 3), ("c2", 20), ("c3", 1), ("c4", 11)):
        await stand.publish_many(chat, list(range(number)))
    await stand.settle()
    assert [len(part) for part in slices] == [7, 7, 7, 7, 7]
    assert [chat for part in slices for chat in part] == ["c1"] * 3 + ["c2"] * 20 + ["c3"] + ["c4"] * 11
    for chat, number in (("c1", 3), ("c2", 20), ("c3", 1), ("c4", 11)):
        assert await stand.numbered(chat) == list(range(1, number + 1))


async def test_a_crash_between_moving_and_trimming_moves_nothing_twice(stand: EmbeddedHarness) -> None:
    await stand.start(consumers={FIFO: hold})
    await stand.publish_many("c1", list(range(5)))
    await stand.clock.run(moved(stand, 5))
    assert await rows(stand, "log") == 5
    await stand.crash(consumers={})
    await stand.settle()
    assert (await rows(stand, "message_storage"), await rows(stand, "log")) == (5, 0)
    assert await stand.numbered("c1") == [1, 2, 3, 4, 5]


async def test_a_slice_that_fails_once_is_stored_message_by_message(stand: EmbeddedHarness) -> None:
    await stand.start(Options(failpoints="storage.mid_move=raise@1"), consumers={})
    await stand.publish_many("c1", list(range(5)))
    await stand.settle()
    assert await rows(stand, "message_storage") == 5
    assert await stand.dead_letters() == []


async def test_a_purged_letter_of_storage_leaves_its_number_without_what_was_published(stand: EmbeddedHarness) -> None:
    await stand.start(consumers={})
    stand.meddle(STORAGE, poison("secret"))
    await stand.publish_many("c1", ["one", "secret", "three"])
    await stand.settle()
    (letter,) = await stand.dead_letters(STORAGE)
    assert await stand.engine.bus.purge([letter.letter_id]) == 1
    for _ in range(2):
        history = await stand.history("c1")
        assert [row["sequenceNumber"] for row in history] == [1, 2, 3]
        assert history[1]["messageId"] == letter.message_id
        assert "secret" not in str(history)
        await stand.restart()
