"""Reading on DynamoDB: complete by number though the index lags, by time what the table has, and nothing half-made."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import DAY, Options, refusal_of
from tests.engines.aws.containers import rows_of, stamped, tap
from tocsin.engines.aws.bus_format import message_of
from tocsin.engines.aws.dynamodb_messages import PAGE_BYTES
from tocsin.engines.aws.message_rows import NEWEST
from tocsin.message import Message, erase
from tocsin.tables import Page

pytestmark = pytest.mark.slow


def contents(page: Page) -> list[object]:
    return [msgspec.json.decode(body)["payload"]["content"] for body in page.bodies]


def messages(harness: AwsHarness, number: int, chat_id: str = "c1") -> list[Message]:
    return [message_of(harness.publication(chat_id, index + 1)) for index in range(number)]


async def numbered(harness: AwsHarness, number: int) -> None:
    await harness.engine.numbers.number(messages(harness, number))


def lag(harness: AwsHarness, numbers: Collection[int], *, looks: int = 1 << 30) -> None:
    """The index does not have these yet, for so many looks."""
    left = [looks]
    asked: list[bool] = []

    def note(params: dict[str, Any], **_: object) -> None:
        asked.append("IndexName" in params)

    def hide(parsed: dict[str, Any], **_: object) -> None:
        if asked.pop() and left[0] and "Items" in parsed:
            left[0] -= 1
            parsed["Items"] = [row for row in parsed["Items"] if int(row["sequenceNumber"]["N"]) not in numbers]

    events = harness.aws.dynamodb.client.meta.events
    events.register("before-parameter-build.dynamodb.Query", note)
    events.register("after-call.dynamodb.Query", hide)


# -- by number -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [{10}, {9, 10}, {8, 10}, {1}, set(range(1, 11))])
async def test_what_the_index_lacks_is_found_in_the_table(bare: AwsHarness, missing: set[int]) -> None:
    await numbered(bare, 10)
    lag(bare, missing)
    read = bare.engine.messages.by_number
    assert contents(await read("c1", 1, 10, 100)) == list(range(1, 11))
    page = await read("c1", 7, 10, 2)
    assert (contents(page), page.next) == ([7, 8], "9")


async def test_what_lags_too_far_behind_is_refused_and_never_left_out(bare: AwsHarness) -> None:
    await numbered(bare, 2)
    await bare.engine.messages.store(
        [message_of(bare.publication("c1", index, kind="standard")) for index in range(NEWEST)]
    )
    lag(bare, {2})
    read = bare.engine.messages.by_number
    assert await refusal_of(read("c1", 1, 2, 100)) == "unavailable"
    assert contents(await read("c1", 1, 1, 100)) == [1]


async def test_an_index_that_catches_up_meanwhile_is_looked_at_again(bare: AwsHarness) -> None:
    await numbered(bare, 2)
    await bare.engine.messages.store(
        [message_of(bare.publication("c1", index, kind="standard")) for index in range(NEWEST)]
    )
    await bare.head("c1")
    lag(bare, {2}, looks=1)
    assert contents(await bare.engine.messages.by_number("c1", 1, 2, 100)) == [1, 2]


async def test_while_the_index_has_all_the_table_is_not_read(bare: AwsHarness) -> None:
    await numbered(bare, 10)
    await bare.head("c1")
    asked = tap(bare.aws.dynamodb, "Query")
    await bare.engine.messages.by_number("c1", 3, 7, 100)
    assert ["IndexName" in query for query in asked] == [True]


async def test_a_page_ends_where_lambda_could_not_carry_more(bare: AwsHarness) -> None:
    for start in range(0, 40, 10):
        those = [message_of(bare.publication("c1", "x" * 120_000)) for _ in range(10)]
        await bare.engine.numbers.number(those)
        assert await bare.head("c1") == start + 10
    first, found, sizes = 1, 0, []
    while True:
        page = await bare.engine.messages.by_number("c1", first, 40, 1_000)
        sizes.append(sum(map(len, page.bodies)))
        found += len(page.bodies)
        if page.next is None:
            break
        assert int(page.next) == found + 1
        first = int(page.next)
    assert (found, len(sizes)) == (40, 2)
    assert max(sizes) < PAGE_BYTES + 40 * 1_000  # envelopes
    after, found = None, 0
    while True:
        times = await bare.engine.messages.by_time("c1", None, None, ascending=False, after=after, limit=1_000)
        assert sum(map(len, times.bodies)) <= PAGE_BYTES
        found += len(times.bodies)
        if times.next is None:
            break
        after = times.next
    assert found == 40


async def test_what_expires_while_a_page_is_read_is_left_out_at_its_front(stand: AwsHarness) -> None:
    await stand.start(Options(retention=DAY), consumers={})
    await numbered(stand, 2)
    stand.clock.advance(3_600)
    await stand.engine.numbers.number(messages(stand, 4)[2:])
    await stand.head("c1")
    stand.aws.dynamodb.client.meta.events.register(
        "after-call.dynamodb.Query", lambda **_: stand.clock.advance(86_400 - 3_600)
    )
    assert contents(await stand.engine.messages.by_number("c1", 1, 4, 100)) == [3, 4]


# -- by time ---------------------------------------------------------------------------------------------------------


async def test_a_message_that_waits_for_its_number_is_not_shown(bare: AwsHarness) -> None:
    """Storage can be first; shown without its number, it would change under its readers."""
    waits, plain = message_of(bare.publication("c1", "fifo")), message_of(bare.publication("c1", "s", kind="standard"))
    ordered = message_of(bare.publication("c1", "email", channel="email"))
    await bare.engine.messages.store([waits, plain, ordered])
    page = await bare.engine.messages.by_time("c1", None, None, ascending=True, after=None, limit=10)
    assert contents(page) == ["s", "email"]
    await bare.engine.numbers.number([waits])
    page = await bare.engine.messages.by_time("c1", None, None, ascending=True, after=None, limit=10)
    assert contents(page) == ["fifo", "s", "email"]
    assert msgspec.json.decode(page.bodies[0])["sequenceNumber"] == 1


async def test_a_page_is_full_though_many_rows_are_hidden(bare: AwsHarness) -> None:
    for index in range(8):
        await bare.engine.messages.store(messages(bare, 5))
        await bare.engine.messages.store([message_of(bare.publication("c1", f"s{index}", kind="standard"))])
    found: list[object] = []
    after = None
    while True:
        page = await bare.engine.messages.by_time("c1", None, None, ascending=True, after=after, limit=3)
        found += contents(page)
        if page.next is None:
            break
        assert len(page.bodies) == 3
        after = page.next
    assert found == [f"s{index}" for index in range(8)]


async def test_the_number_is_the_order_and_time_is_the_publishers(bare: AwsHarness) -> None:
    """A container whose clock is behind: by time its message stands before, and a page that has passed misses it."""
    now = bare.clock.now()
    early, late = (
        message_of(stamped(bare.publication("c1", content), at)) for content, at in (("early", now), ("late", now - 5))
    )
    await bare.engine.numbers.number([early])
    page = await bare.engine.messages.by_time("c1", None, None, ascending=True, after=None, limit=10)
    await bare.engine.numbers.number([late])
    place = rows_of(bare, "c1")[-1]["timestamp"]["S"]
    following = await bare.engine.messages.by_time("c1", None, None, ascending=True, after=place, limit=10)
    assert (contents(page), contents(following)) == (["early"], [])
    whole = await bare.engine.messages.by_time("c1", None, None, ascending=True, after=None, limit=10)
    assert contents(whole) == ["late", "early"]
    assert contents(await bare.engine.messages.by_number("c1", 1, 2, 10)) == ["early", "late"]


async def test_reads_by_time_are_consistent_and_ask_no_index(bare: AwsHarness) -> None:
    asked = tap(bare.aws.dynamodb, "Query")
    await bare.engine.messages.by_time("c1", None, None, ascending=True, after=None, limit=10)
    assert [(query.get("ConsistentRead"), "IndexName" in query) for query in asked] == [(True, False)]


# -- storing ---------------------------------------------------------------------------------------------------------


async def test_what_was_erased_stays_erased_when_it_is_stored_and_numbered_again(bare: AwsHarness) -> None:
    (one,) = await bare.engine.numbers.number(messages(bare, 1))
    (row,) = rows_of(bare, "c1")
    bare.stage.services.dynamodb.update_item(
        TableName=bare.stage.tables["MessageStorageTable"],
        Key={"chatId": row["chatId"], "timestamp": row["timestamp"]},
        UpdateExpression="SET payload = :erased",
        ExpressionAttributeValues={":erased": {"S": payload_of(erase(one.body))}},
    )
    (again,) = messages(bare, 1)
    again = msgspec.structs.replace(again, message_id=one.message_id, timestamp=one.timestamp)
    await bare.engine.messages.store([again])
    await bare.engine.numbers.number([again])
    (body,) = (await bare.engine.messages.by_number("c1", 1, 1, 1)).bodies
    assert body == erase(one.body)


def payload_of(body: bytes) -> str:
    return bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw])["payload"]).decode()


async def test_a_message_that_can_not_be_stored_fails_alone(bare: AwsHarness) -> None:
    good = [message_of(bare.publication("c1", index, kind="standard")) for index in range(4)]
    bad = msgspec.structs.replace(good[2], body=b"{}")
    those: Sequence[Message] = [good[0], good[1], bad, good[3]]
    with pytest.raises(msgspec.ValidationError):
        await bare.engine.messages.store(those)
    assert len(rows_of(bare, "c1")) == 3


async def test_every_row_has_an_end(bare: AwsHarness) -> None:
    await bare.engine.messages.store([*messages(bare, 1), message_of(bare.publication("c1", kind="standard"))])
    assert [int(row["ttl"]["N"]) for row in rows_of(bare, "c1")] == [(bare.clock.now() + 30 * DAY) // 1000] * 2
