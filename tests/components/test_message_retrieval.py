"""Message Retrieval: who may read, what a range means, and a page that has all that its head promises."""

import asyncio

import msgspec
import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import BACK_END, identity, refusal_of
from tocsin.components.message_retrieval import History, Range


def contents(history: History) -> list[object]:
    return [msgspec.json.decode(body)["payload"]["content"] for body in history.page.bodies]


@pytest.fixture
async def five(harness: EmbeddedHarness) -> EmbeddedHarness:
    """A chat with five numbers, a plain message behind each, a second apart."""
    for number in range(1, 6):
        await harness.publish("c1", number)
        await harness.publish("c1", f"plain {number}", kind="standard")
        harness.clock.advance(1)
    return harness


async def test_readers_and_above_may_read_and_nobody_else(five: EmbeddedHarness) -> None:
    retrieve = five.service.message_retrieval.retrieve
    wanted = Range(chat_id="c1", limit=1, ascending=False)
    for stranger in (identity("alice"), identity("service", "publish:any", "permissions:write")):
        assert await refusal_of(retrieve(stranger, wanted)) == "forbidden"
    assert contents(await retrieve(identity("auditor", "messages:read"), wanted)) == ["plain 5"]
    for role in ("reader", "member", "admin", "owner"):
        await five.grant("alice", "c1", role)
        assert contents(await retrieve(identity("alice"), wanted)) == ["plain 5"]


async def test_a_chat_that_is_not_there_is_refused_in_the_same_words(five: EmbeddedHarness) -> None:
    texts = []
    for chat in ("c1", "nowhere"):
        with pytest.raises(Exception, match="not allowed") as refused:
            await five.service.message_retrieval.retrieve(
                identity("alice"), Range(chat_id=chat, limit=1, ascending=False)
            )
        texts.append(str(refused.value))
    assert texts[0] == texts[1]


async def test_an_inbox_is_read_by_its_user_and_by_who_was_granted(harness: EmbeddedHarness) -> None:
    await harness.publish("user:alice", "for alice")
    retrieve = harness.service.message_retrieval.retrieve
    wanted = Range(chat_id="user:alice", limit=10, ascending=True)
    assert contents(await retrieve(identity("alice"), wanted)) == ["for alice"]
    assert await refusal_of(retrieve(identity("bob"), wanted)) == "forbidden"
    await harness.grant("bob", "user:alice", "reader")
    assert contents(await retrieve(identity("bob"), wanted)) == ["for alice"]


async def test_a_ticket_limits_what_may_be_read(five: EmbeddedHarness) -> None:
    limited = identity("auditor", "messages:read", chat_ids=["c2"])
    wanted = Range(chat_id="c1", limit=1, ascending=True)
    assert await refusal_of(five.service.message_retrieval.retrieve(limited, wanted)) == "forbidden"


async def test_by_time_all_messages_by_number_the_numbered_ones(five: EmbeddedHarness) -> None:
    retrieve = five.service.message_retrieval.retrieve
    everything = await retrieve(BACK_END, Range(chat_id="c1", limit=100, ascending=True))
    assert contents(everything) == [each for number in range(1, 6) for each in (number, f"plain {number}")]
    newest = await retrieve(BACK_END, Range(chat_id="c1", limit=3, ascending=False))
    assert contents(newest) == ["plain 5", 5, "plain 4"]
    numbered = await retrieve(BACK_END, Range(chat_id="c1", limit=100, ascending=True, by_number=True, first=2, last=4))
    assert contents(numbered) == [2, 3, 4]


@pytest.mark.parametrize(
    ("first", "last", "expected"), [(None, 2, [1, 2]), (4, None, [4, 5]), (None, None, [1, 2, 3, 4, 5]), (9, None, [])]
)
async def test_a_range_of_numbers_may_be_one_sided(
    five: EmbeddedHarness, first: int | None, last: int | None, expected: list[int]
) -> None:
    wanted = Range(chat_id="c1", limit=100, ascending=True, by_number=True, first=first, last=last)
    assert contents(await five.service.message_retrieval.retrieve(BACK_END, wanted)) == expected


async def test_pages_follow_each_other_by_number_and_by_time(five: EmbeddedHarness) -> None:
    for wanted, expected in (
        (Range(chat_id="c1", limit=2, ascending=True, by_number=True, first=2), [2, 3, 4, 5]),
        (Range(chat_id="c1", limit=4, ascending=False), [e for n in range(5, 0, -1) for e in (f"plain {n}", n)]),
    ):
        found: list[object] = []
        after = None
        while True:
            history = await five.service.message_retrieval.retrieve(
                BACK_END, msgspec.structs.replace(wanted, after=after)
            )
            found += contents(history)
            if (after := history.page.next) is None:
                break
        assert found == expected


async def test_the_head_is_the_chats_whatever_is_asked_for(five: EmbeddedHarness) -> None:
    wanted = Range(chat_id="c1", limit=1, ascending=True, by_number=True, first=2, last=2)
    head = (await five.service.message_retrieval.retrieve(BACK_END, wanted)).head
    assert (head.sequence, head.oldest) == (5, 1)
    empty = await five.service.message_retrieval.retrieve(BACK_END, Range(chat_id="new", limit=1, ascending=True))
    assert (empty.head.sequence, empty.head.oldest, list(empty.page.bodies)) == (0, 1, [])


async def test_a_page_never_lacks_what_its_head_promises(harness: EmbeddedHarness) -> None:
    is_over = False

    async def load() -> None:
        for _ in range(30):
            await harness.publish_many("c1", [1, 2, 3])

    async def read() -> None:
        while not is_over:
            history = await harness.service.message_retrieval.retrieve(
                BACK_END, Range(chat_id="c1", limit=1_000, ascending=True)
            )
            numbers = [msgspec.json.decode(body)["sequenceNumber"] for body in history.page.bodies]
            assert numbers == list(range(1, len(numbers) + 1))
            assert len(numbers) >= history.head.sequence
            await asyncio.sleep(0)

    reading = asyncio.ensure_future(read())
    await load()
    is_over = True
    await reading
