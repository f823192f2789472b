"""Queries that come while others run go over together; each has its own outcome."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

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
