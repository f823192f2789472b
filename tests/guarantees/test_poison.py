"""A message on which the processor fails: three tries, a dead letter, and its chat goes on."""

import asyncio
import json
from typing import Any

import pytest

from tests.guarantees.checker import check
from tests.guarantees.drafts import FAIL_ON_POISON, POISON, Draft, draft
from tests.guarantees.readers import Reader, reading
from tests.guarantees.recorder import Recorder
from tests.guarantees.records import Acked, Gap
from tests.guarantees.server import Service, run_cli
from tests.guarantees.traffic import ROOMS, Traffic, settle

pytestmark = pytest.mark.slow

ROOM, OTHER = ROOMS[1], ROOMS[2]


async def message_id_of(recorder: Recorder, draft: Draft) -> str:
    answer = (await recorder.publish(draft)).answer
    assert isinstance(answer, Acked), answer
    return answer.message_id


async def number_of(recorder: Recorder, message_id: str) -> int:
    for row in (await recorder.read_whole(ROOM)).rows:
        if row.message_id == message_id and row.number is not None:
            return row.number
    raise AssertionError(f"{message_id} has no number in {ROOM}")


async def dead_letters(recorder: Recorder, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        while True:
            letters = await recorder.read_dead_letters()
            if len(letters) == count:
                return letters
            await asyncio.sleep(0.1)


async def test_poison_is_put_aside_and_its_chat_goes_on(service: Service, recorder: Recorder) -> None:
    await service.start(FAIL_ON_POISON)
    async with Traffic(recorder, seed=3, revokes=False) as traffic:
        await traffic.run_until(50)
        everywhere = traffic.readers[0]
        await recorder.until(lambda: everywhere.stands, "the reader")
        poison = await message_id_of(recorder, draft(ROOM, POISON))
        await message_id_of(recorder, draft(ROOM, f"standard {POISON}", message_type="standard"))
        number = await number_of(recorder, poison)
        gaps = everywhere.subscriptions[ROOM].events
        await recorder.until(
            lambda: any(isinstance(event, Gap) and event.first == event.last == number for event in gaps),
            f"gap {number}..{number}",
        )
        await traffic.run_until(200)
        breaches = await traffic.finish()
    assert breaches == []


async def test_a_chat_that_is_stuck_holds_up_no_other(service: Service, recorder: Recorder) -> None:
    await service.start(FAIL_ON_POISON)
    reader = Reader(recorder, "carol", [ROOM, OTHER], "carol")
    async with reading(reader):
        poison = await message_id_of(recorder, draft(ROOM, POISON))
        behind = await message_id_of(recorder, draft(ROOM, "behind the poison"))
        beside = [await message_id_of(recorder, draft(OTHER, f"beside {count}")) for count in range(20)]
        in_room, in_other = reader.subscriptions[ROOM], reader.subscriptions[OTHER]
        await recorder.until(lambda: behind in {event.message_id for event in in_room.heard}, "what is behind")
        await settle(recorder, [ROOM, OTHER])
        assert [event.message_id for event in in_other.heard] == beside
        gap = next(event for event in in_room.events if isinstance(event, Gap))
        assert max(event.at for event in in_other.heard) < gap.at, (
            "the others were heard while the poison was being tried"
        )
        assert poison not in {event.message_id for event in in_room.heard}
        await recorder.read_dead_letters()
        assert check(recorder.log) == []


async def test_what_a_later_try_delivers_is_heard_once_under_its_number(service: Service, recorder: Recorder) -> None:
    await service.start("processor.before_audience=raise@1~stumbles")
    reader = Reader(recorder, "carol", [ROOM], "carol")
    async with reading(reader):
        published = [await message_id_of(recorder, draft(ROOM, label)) for label in ("before", "stumbles", "after")]
        await settle(recorder, [ROOM])
        assert [event.message_id for event in reader.subscriptions[ROOM].heard] == published
        assert check(recorder.log) == []


async def test_tries_are_counted_across_a_crash(service: Service, recorder: Recorder) -> None:
    """Killed in its third failure, two are written down: one more makes it dead, though the next one would succeed."""
    await service.start(f"{FAIL_ON_POISON},deadletter.before=kill@1")
    poison = await message_id_of(recorder, draft(ROOM, POISON))
    assert await service.ended(20) == -9
    await service.start(FAIL_ON_POISON.replace("raise", "raise@1"))
    assert [letter["messageId"] for letter in await dead_letters(recorder, 1)] == [poison]
    await settle(recorder, [ROOM])
    assert check(recorder.log) == []


async def test_a_dead_letter_can_be_shown_replayed_and_purged(service: Service, recorder: Recorder) -> None:
    data = str(service.data)
    await service.start(FAIL_ON_POISON)
    before = await message_id_of(recorder, draft(ROOM, "before"))
    first, second = [await message_id_of(recorder, draft(ROOM, f"{POISON} {count}")) for count in (1, 2)]
    letters = await dead_letters(recorder, 2)
    by_message = {letter["messageId"]: letter for letter in letters}
    shown = await asyncio.to_thread(run_cli, "dlq", "show", by_message[first]["letterId"], "--data", data, "--json")
    assert first in shown
    assert POISON in shown
    assert json.loads(shown)["attempts"] == 3
    assert json.loads(shown)["reason"]
    number = await number_of(recorder, first)

    service.terminate()
    assert await service.ended(30) == 0
    await service.start()
    passed = Reader(recorder, "carol", [ROOM], "who has passed it")
    async with reading(passed):
        await asyncio.to_thread(run_cli, "dlq", "replay", by_message[first]["letterId"], "--data", data)
        await asyncio.to_thread(run_cli, "dlq", "purge", by_message[second]["letterId"], "--data", data)
        assert await recorder.read_dead_letters() == []
        after = await message_id_of(recorder, draft(ROOM, "after"))
        heard = passed.subscriptions[ROOM]
        await recorder.until(lambda: after in {event.message_id for event in heard.heard}, "what came after")
        assert first not in {event.message_id for event in heard.heard}, "no reader moves backwards"
        assert await number_of(recorder, first) == number
        assert await number_of(recorder, before) == number - 1
        await settle(recorder, [ROOM])
        assert check(recorder.log) == []
