"""Queries that come while others run go over together; each has its own outcome."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import refusal_of
from tocsin.engines.embedded import reads as reads_module
from tocsin.engines.embedded.data_folder import DataFolder
from tocsin.engines.embedded.reads import Reads


@pytest.fixture
async def reads(tmp_path: Path) -> AsyncIterator[Reads]:
    folder = DataFolder(tmp_path)
    reads = Reads(folder)
    yield reads
    reads.stop()
    folder.close()


async def test_each_gets_its_own_answer(reads: Reads) -> None:
    answers = [reads.run(lambda connection, n=n: connection.execute("SELECT ?", (n,)).get) for n in range(100)]  # type: ignore[misc]
    assert await asyncio.gather(*answers) == list(range(100))


async def test_a_query_that_fails_fails_alone(reads: Reads) -> None:
    outcomes = await asyncio.gather(
        reads.run(lambda connection: connection.execute("SELECT 1").get),
        reads.run(lambda connection: connection.execute("SELECT nonsense").get),
        reads.run(lambda connection: connection.execute("SELECT 2").get),
        return_exceptions=True,
    )
    assert [outcomes[0], outcomes[2]] == [1, 2]
    assert isinstance(outcomes[1], apsw.SQLError)


async def test_one_who_has_gone_away_disturbs_nobody(reads: Reads) -> None:
    gone, stays = [reads.run(lambda connection: connection.execute("SELECT 7").get) for _ in range(2)]
    gone.cancel()
    assert await stays == 7
    assert await reads.run(lambda connection: connection.execute("SELECT 8").get) == 8


async def test_what_took_long_enough_comes_back_before_the_rest_is_read(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads_module, "BATCH_SECONDS", 0.0)
    may_go_on = threading.Event()
    first = reads.run(lambda connection: connection.execute("SELECT 1").get)
    second = reads.run(lambda connection: may_go_on.wait(10))
    third = reads.run(lambda connection: connection.execute("SELECT 3").get)
    assert await first == 1
    assert not second.done()
    may_go_on.set()
    assert (await second, await third) == (True, 3)


async def test_beyond_the_bound_they_are_refused(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads_module, "MAX_WAITING", 2)
    waiting = [reads.run(lambda connection: connection.execute("SELECT 1").get) for _ in range(2)]

    async def one_more() -> None:
        await reads.run(lambda connection: connection.execute("SELECT 1").get)

    assert await refusal_of(one_more()) == "unavailable"
    assert await asyncio.gather(*waiting) == [1, 1]
    await one_more()


async def test_who_waits_when_it_stops_is_told(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    reads = Reads(folder)
    waiting = reads.run(lambda connection: connection.execute("SELECT 1").get)
    reads.stop()
    assert await refusal_of(waiting) == "unavailable"

    async def later() -> None:
        await reads.run(lambda connection: connection.execute("SELECT 1").get)

    assert await refusal_of(later()) == "unavailable"
    folder.close()


async def test_who_asks_for_numbers_that_are_being_read_gets_the_same_page(bare: EmbeddedHarness) -> None:
    await bare.publish_many("c", range(5))
    messages = bare.engine.messages
    asking = [asyncio.ensure_future(messages.by_number("c", 1, 5, 10)) for _ in range(4)]
    other = asyncio.ensure_future(messages.by_number("c", 2, 5, 10))
    await asyncio.sleep(0)
    asking[0].cancel()  # takes it from nobody else
    pages = await asyncio.gather(*asking[1:])
    assert len({id(page) for page in pages}) == 1
    assert (len(pages[0].bodies), len((await other).bodies)) == (5, 4)
    assert await messages.by_number("c", 1, 5, 10) is not pages[0]
