"""Messages: what was acknowledged is readable, complete by number, once by time, for as long as it is kept."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from tests.conformance.harness import DAY, Harness, Options, Recorder, poison
from tocsin.message import Message, parse_rfc3339, read_back, rfc3339
from tocsin.tables import Page
from tocsin.topology import MESSAGE_STORAGE_QUEUE, WEBSOCKET_FIFO_QUEUE

STORAGE = MESSAGE_STORAGE_QUEUE


def contents(page: Page) -> list[object]:
    return [msgspec.json.decode(body)["payload"]["content"] for body in page.bodies]


async def by_time(
    harness: Harness,
    *,
    first: int | None = None,
    last: int | None = None,
    ascending: bool = True,
    after: str | None = None,
    limit: int = 100,
) -> Page:
    return await harness.engine.messages.by_time("c1", first, last, ascending=ascending, after=after, limit=limit)


async def walk(
    harness: Harness, *, ascending: bool, limit: int, first: int | None = None, last: int | None = None
) -> list[object]:
    """All pages."""
    found: list[object] = []
    after = None
    while True:
        page = await by_time(harness, first=first, last=last, ascending=ascending, after=after, limit=limit)
        found += contents(page)
        assert len(page.bodies) <= limit
        if page.next is None:
            return found
        after = page.next


async def some(harness: Harness, number: int, *, stored: int) -> list[object]:
    """So many messages, a second apart, every third of them plain; the first `stored` of them are in storage."""
    for index in range(number):
        if index == stored:
            await harness.settle()
        await harness.publish("c1", index, kind="standard" if index % 3 == 2 else "fifo")
        harness.clock.advance(1)
    if stored == number:
        await harness.settle()
    await harness.stored()
    return list(range(number))


# -- reading ---------------------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_in_history_as_it_was_published(bare: Harness) -> None:
    now = bare.clock.now()
    receipt = await bare.publish("c1", {"text": "ü ✓ \x1e"}, id="id-1")
    (row,) = await bare.history("c1")
    assert row["payload"] == {"chatId": "c1", "eventType": "chat", "content": {"text": "ü ✓ \x1e"}}
    assert {name: value for name, value in row.items() if name != "payload"} == {
        "messageId": receipt.message_id,
        "messageType": "fifo",
        "targetChannel": "WebSocket",
        "timestamp": rfc3339(now).decode(),
        "senderId": "alice",
        "sequenceNumber": 1,
        "messageDeduplicationId": "id-1",
    }


@pytest.mark.parametrize("stored", [0, 7, 20])
async def test_pages_by_time_have_each_message_once(bare: Harness, stored: int) -> None:
    expected = await some(bare, 20, stored=stored)
    for limit in (1, 3, 10, 19, 20, 21):
        assert await walk(bare, ascending=True, limit=limit) == expected
        assert await walk(bare, ascending=False, limit=limit) == expected[::-1]


async def test_a_long_page_is_whole_and_as_long_as_it_may_be(bare: Harness) -> None:
    expected = await some(bare, 120, stored=70)
    for ascending in (True, False):
        page = await by_time(bare, ascending=ascending, limit=110)
        assert contents(page) == (expected if ascending else expected[::-1])[:110]
        assert await walk(bare, ascending=ascending, limit=110) == (expected if ascending else expected[::-1])
    numbered = [number for number in expected if number % 3 != 2]  # type: ignore[operator]
    page = await bare.engine.messages.by_number("c1", 1, 80, 75)
    assert (contents(page), page.next) == (numbered[:75], "76")
    page = await bare.engine.messages.by_number("c1", 76, 80, 75)
    assert (contents(page), page.next) == (numbered[75:], None)


async def test_a_page_of_the_longest_messages_ends_early_and_the_next_goes_on(bare: Harness) -> None:
    for index in range(70):
        if index == 40:
            await bare.settle()
        await bare.publish("c1", f"{index:03}" + "x" * 120_000)
    await bare.stored()
    found: list[bytes] = []
    while len(found) < 70:
        page = await bare.engine.messages.by_number("c1", len(found) + 1, 70, 1_000)
        assert sum(map(len, page.bodies)) < 7 * 1024 * 1024
        found += page.bodies
        assert page.next == (str(len(found) + 1) if len(found) < 70 else None)
    assert [msgspec.json.decode(body)["sequenceNumber"] for body in found] == list(range(1, 71))
    for ascending in (True, False):
        seen, after = list[bytes](), None
        while True:
            page = await by_time(bare, ascending=ascending, after=after, limit=1_000)
            assert sum(map(len, page.bodies)) < 7 * 1024 * 1024
            seen, after = [*seen, *page.bodies], page.next
            if after is None:
                break
        assert seen == (found if ascending else found[::-1])


@pytest.mark.parametrize("stored", [0, 7, 20])
async def test_a_range_of_time_includes_both_its_ends(bare: Harness, stored: int) -> None:
    await some(bare, 20, stored=stored)
    moments = [parse_rfc3339(row["timestamp"]) for row in await bare.history("c1")]
    for first, last in [(5, 12), (0, 0), (19, 19), (6, 7), (0, 19)]:
        ends = {"first": moments[first], "last": moments[last]}
        expected: list[object] = list(range(first, last + 1))
        assert await walk(bare, ascending=True, limit=4, **ends) == expected
        assert await walk(bare, ascending=False, limit=4, **ends) == expected[::-1]
    assert await walk(bare, ascending=True, limit=4, first=moments[15]) == [15, 16, 17, 18, 19]
    assert await walk(bare, ascending=False, limit=4, last=moments[2]) == [2, 1, 0]
    assert await walk(bare, ascending=True, limit=4, first=moments[3] + 1, last=moments[4] - 1) == []
    assert await walk(bare, ascending=True, limit=4, first=moments[19] + 1) == []
    assert await walk(bare, ascending=False, limit=4, last=moments[0] - 1) == []


async def test_pages_neither_repeat_nor_skip_while_messages_arrive_and_are_stored(bare: Harness) -> None:
    for ascending in (True, False):
        there = list(await walk(bare, ascending=True, limit=100))
        there += await some(bare, 10, stored=5)
        found: list[object] = []
        after, arrivals = None, iter(["late 1", "late 2", "late 3", "late 4"])
        while True:
            page = await by_time(bare, ascending=ascending, after=after, limit=2)
            found += contents(page)
            if page.next is None:
                break
            after = page.next
            if (late := next(arrivals, None)) is not None:
                await bare.publish("c1", late)
                await (bare.settle() if late == "late 2" else bare.stored())
        if not ascending:
            assert found == there[::-1]
        elif "time_follows_number" in bare.engine.strengths:
            assert found == [*there, "late 1", "late 2", "late 3", "late 4"]
        else:
            assert [content for content in found if "late" not in str(content)] == there


async def test_messages_of_one_millisecond_are_all_kept_in_order(bare: Harness) -> None:
    await bare.publish_many("c1", list(range(30)))
    await bare.stored()
    assert await walk(bare, ascending=True, limit=7) == list(range(30))
    await bare.settle()
    assert await walk(bare, ascending=False, limit=7) == list(range(29, -1, -1))


@pytest.mark.parametrize("stored", [0, 5, 9])
async def test_by_number_every_number_of_the_range_is_there_in_order(bare: Harness, stored: int) -> None:
    for index in range(9):
        if index == stored:
            await bare.settle()
        await bare.publish("c1", index + 1)
        await bare.publish("c1", "plain", kind="standard")
    if stored == 9:
        await bare.settle()
    await bare.stored()
    read = bare.engine.messages.by_number
    assert contents(await read("c1", 1, 9, 100)) == list(range(1, 10))
    assert contents(await read("c1", 4, 6, 100)) == [4, 5, 6]
    assert contents(await read("c1", 9, 9, 100)) == [9]
    assert contents(await read("c1", 5, 1000, 100)) == [5, 6, 7, 8, 9]
    assert contents(await read("c1", 10, 1000, 100)) == []
    page = await read("c1", 2, 8, 3)
    assert (contents(page), page.next) == ([2, 3, 4], "5")
    page = await read("c1", 5, 7, 3)
    assert (contents(page), page.next) == ([5, 6, 7], None)
    page = await read("c1", 7, 1000, 3)
    assert (contents(page), page.next) == ([7, 8, 9], None)


async def test_a_chat_that_nobody_has_published_in_is_empty(bare: Harness) -> None:
    assert await bare.engine.messages.by_number("nobody", 1, 10, 10) == Page(bodies=(), next=None)
    page = await bare.engine.messages.by_time("nobody", None, None, ascending=False, after=None, limit=10)
    assert (list(page.bodies), page.next) == ([], None)


async def test_chats_do_not_mix(bare: Harness) -> None:
    for index in range(6):
        await bare.publish(f"c{index % 2 + 1}", index)
    await bare.settle()
    for index in range(6, 10):
        await bare.publish(f"c{index % 2 + 1}", index)
    await bare.stored()
    assert contents(await by_time(bare)) == [0, 2, 4, 6, 8]
    assert contents(await bare.engine.messages.by_number("c2", 1, 10, 10)) == [1, 3, 5, 7, 9]


async def test_history_is_whole_at_every_moment_while_it_is_stored(bare: Harness) -> None:
    """Invariant 3: in every single read, also during load."""
    is_over = False
    published = 0
    reads: list[tuple[int, list[int | None]]] = []

    async def read() -> None:
        least = published
        await bare.stored()
        page = await bare.engine.messages.by_number("c1", 1, 1 << 40, 1_000)
        reads.append((least, [read_back(body).sequence_number for body in page.bodies]))

    async def read_on() -> None:
        while not is_over:
            await read()
            await asyncio.sleep(0)

    reading = [asyncio.ensure_future(read_on())]
    rounds = 8 if "history_at_once" in bare.engine.strengths else 3
    for _ in range(rounds):
        await bare.publish_many("c1", list(range(40)))
        published += 40
        reading.append(asyncio.ensure_future(read()))  # begun when these forty are not stored yet
        await bare.settle()
    is_over = True
    await bare.clock.run(asyncio.gather(*reading))
    assert len(reads) > rounds
    for least, numbers in reads:
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= least


# -- storing ---------------------------------------------------------------------------------------------------------


async def test_storing_a_message_again_changes_nothing(stand: Harness) -> None:
    storage = Recorder()

    async def store(messages: Sequence[Message]) -> None:
        await stand.engine.messages.store(messages)
        await storage(messages)

    await stand.start(consumers={STORAGE: store})
    await stand.publish_many("c1", ["one", "two"])
    await stand.publish("c1", "plain", kind="standard")
    await stand.settle()
    for _ in range(2):
        await stand.engine.messages.store(storage.messages)
    before = await stand.history("c1")
    await stand.engine.messages.store(storage.messages[1:2])
    assert await stand.history("c1") == before
    assert [row.get("sequenceNumber") for row in before] == [1, 2, None]
    assert await stand.numbered("c1") == [1, 2]


async def test_a_message_that_storage_fails_at_stays_readable_and_its_neighbours_are_stored(bare: Harness) -> None:
    cure = bare.meddle(STORAGE, poison("poison"))
    await bare.publish_many("c1", ["one", "poison", "three"])
    await bare.publish("c1", "plain poison", kind="standard")
    await bare.publish("c1", "five")
    await bare.settle()
    everything = ["one", "poison", "three", "plain poison", "five"]
    expected = [
        content for content in everything if content != "plain poison" or "history_at_once" in bare.engine.strengths
    ]
    for _ in range(2):
        assert {letter.chat_id for letter in await bare.dead_letters(STORAGE)} == {"c1"}
        assert len(await bare.dead_letters(STORAGE)) == 2
        assert await walk(bare, ascending=True, limit=2) == expected
        assert await walk(bare, ascending=False, limit=2) == expected[::-1]
        assert await bare.numbered("c1") == [1, 2, 3, 4]
        await bare.restart()
        await bare.settle()
    cure()
    letters = await bare.dead_letters(STORAGE)
    assert await bare.engine.bus.replay([letter.letter_id for letter in letters]) == 2
    await bare.settle()
    assert await bare.dead_letters() == []
    assert await walk(bare, ascending=True, limit=2) == everything
    assert await bare.numbered("c1") == [1, 2, 3, 4]


async def test_a_dead_letter_of_a_live_queue_is_in_history_under_its_number(bare: Harness) -> None:
    bare.meddle(WEBSOCKET_FIFO_QUEUE, poison("poison"))
    await bare.publish_many("c1", ["one", "poison", "three"])
    await bare.settle()
    (letter,) = await bare.dead_letters()
    page = await bare.engine.messages.by_number("c1", 2, 2, 1)
    assert [bytes(letter.body)] == list(page.bodies)


# -- expiring --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def short(stand: Harness) -> Harness:
    """Messages are kept for an hour."""
    await stand.start(Options(retention=3_600_000), consumers={})
    return stand


def deleted(harness: Harness, number: int) -> int:
    """So many, or none where that is somebody else's work."""
    return number if "deletes_on_demand" in harness.engine.strengths else 0


async def test_what_is_past_its_time_is_not_read_whether_it_was_deleted_or_not(short: Harness) -> None:
    await short.publish_many("c1", ["old 1", "old 2"])
    await short.settle()
    short.clock.advance(1800)
    await short.publish_many("c1", ["new 1", "new 2"])
    short.clock.advance(1801)
    for _ in range(2):
        assert [row["payload"]["content"] for row in await short.history("c1")] == ["new 1", "new 2"]
        assert await walk(short, ascending=False, limit=1, first=0) == ["new 2", "new 1"]
        assert await short.numbered("c1") == [3, 4]
        await short.settle()
        await short.engine.messages.expire(short.clock.now(), 100)
    assert await short.engine.messages.expire(short.clock.now(), 100) == 0


async def test_what_expired_before_it_was_stored_is_not_read(short: Harness) -> None:
    short.meddle(STORAGE, poison("old"))
    await short.publish("c1", "old, and a dead letter")
    await short.settle()
    await short.publish("c1", "in the log")
    short.clock.advance(3601)
    assert await short.history("c1") == []
    assert await short.numbered("c1") == []
    assert (await short.engine.numbers.heads(["c1"]))["c1"].oldest == 3


async def test_expired_messages_are_deleted_in_slices(short: Harness) -> None:
    for chat in range(3):
        await short.publish_many(f"c{chat}", list(range(5)))
    await short.settle()
    assert await short.engine.messages.expire(short.clock.now(), 100) == 0
    short.clock.advance(3601)
    slices = [await short.engine.messages.expire(short.clock.now(), 4) for _ in range(6)]
    assert sum(slices) == deleted(short, 15)
    assert max(slices) <= 4
    assert slices[-1] == 0


async def test_a_pass_over_very_many_chats_deletes_all_that_it_may(short: Harness) -> None:
    await short.engine.bus.publish([short.publication(f"c{chat}", 1) for chat in range(170)])
    await short.settle()
    short.clock.advance(3601)
    assert await short.engine.messages.expire(short.clock.now(), 1_000) == deleted(short, 170)


@pytest.mark.parametrize("restarted", [False, True])
async def test_numbers_go_on_when_all_messages_have_expired(short: Harness, restarted: bool) -> None:
    await short.publish_many("c1", [1, 2, 3])
    await short.settle()
    short.clock.advance(3601)
    assert await short.numbered("c1") == []
    assert await short.engine.messages.expire(short.clock.now(), 100) == deleted(short, 3)
    if restarted:
        await short.restart()
    head = (await short.engine.numbers.heads(["c1"]))["c1"]
    assert (head.sequence, head.oldest) == (3, 4)
    await short.publish("c1", 4)
    assert await short.numbered("c1") == [4]


async def test_when_the_clock_jumps_reads_follow_at_once_and_deletion_waits_an_hour(short: Harness) -> None:
    await short.publish("c1", "kept")
    await short.settle()
    expire = short.engine.messages.expire
    assert await expire(short.clock.now(), 100) == 0
    short.clock.jump(2 * DAY)
    assert await short.history("c1") == []
    assert await expire(short.clock.now(), 100) == 0
    short.clock.jump(-2 * DAY)
    assert len(await short.history("c1")) == 1


async def test_deletion_goes_on_an_hour_after_a_jump(short: Harness) -> None:
    await short.publish("c1", "gone")
    await short.settle()
    expire = short.engine.messages.expire
    await expire(short.clock.now(), 100)
    short.clock.jump(2 * DAY)
    passes = []
    for _ in range(8):
        passes.append(await expire(short.clock.now(), 100))
        short.clock.advance(600)
    assert passes[:6] == [0] * 6
    assert sum(passes) == deleted(short, 1)


@pytest.mark.parametrize("late", [False, True])
async def test_a_letter_that_is_replayed_into_storage_expires_like_any_other(short: Harness, late: bool) -> None:
    cure = short.meddle(STORAGE, poison("poison"))
    await short.publish("c1", "poison")
    await short.settle()
    cure()
    if late:
        short.clock.advance(3601)
        await short.engine.messages.expire(short.clock.now(), 100)
    (letter,) = await short.dead_letters()
    await short.engine.bus.replay([letter.letter_id])
    await short.settle()
    short.clock.advance(3601)
    assert await short.engine.messages.expire(short.clock.now(), 100) == deleted(short, 1)
    assert await short.history("c1") == []
