"""One transaction for all that arrives together: what fails in it fails alone, and what fails as a whole is undone."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import Options, Recorder, refusal_of
from tests.manual_clock import turns
from tocsin.bus import Receipt
from tocsin.components.message_retrieval import Range
from tocsin.engines.embedded import group_commit
from tocsin.engines.embedded.draft import Answer
from tocsin.engines.embedded.engine import EmbeddedEngine, EmbeddedSettings
from tocsin.errors import Refusal
from tocsin.message import Publication
from tocsin.topology import MESSAGE_STORAGE_QUEUE, WEBSOCKET_FIFO_QUEUE


def commits(harness: EmbeddedHarness) -> float:
    """How many transactions have brought messages."""
    return harness.embedded.metrics.registry.get_sample_value("tocsin_commit_batch_size_count") or 0.0


@asynccontextmanager
async def held_open(
    harness: EmbeddedHarness, *publications: Publication, failure: Exception | None = None
) -> AsyncIterator[list[asyncio.Future[list[Answer]]]]:
    """While the body runs, a transaction with these, each an append of its own, stands just before its COMMIT.

    With a `failure` it then ends in that.
    """
    is_reached, may_go_on = threading.Event(), threading.Event()

    def hold(connection: apsw.Connection) -> None:
        is_reached.set()
        may_go_on.wait()
        if failure is not None:
            raise failure

    commits = harness.embedded.bus.commits
    publishing = [commits.append([publication]) for publication in publications]
    holding = commits.write(hold)
    await asyncio.to_thread(is_reached.wait)
    try:
        yield publishing
    finally:
        may_go_on.set()
        await asyncio.gather(holding, return_exceptions=True)


async def test_what_arrives_together_is_committed_together(bare: EmbeddedHarness) -> None:
    await asyncio.gather(*[bare.publish(f"c{index}") for index in range(50)])
    assert commits(bare) == 1


async def test_what_arrives_during_a_commit_goes_into_the_next_one(bare: EmbeddedHarness) -> None:
    async with held_open(bare, bare.publication("c1")) as publishing:
        others = [asyncio.ensure_future(bare.publish(f"c{index}")) for index in range(20)]
        await turns()
        assert not publishing[0].done()
    await asyncio.gather(*publishing, *others)
    assert commits(bare) == 2


@pytest.mark.parametrize(
    "failure", [None, apsw.FullError("full"), apsw.IOError("failed")], ids=["durable", "full", "failed"]
)
async def test_until_a_commit_has_come_back_nobody_is_told_of_what_it_brings(
    stand: EmbeddedHarness, failure: Exception | None
) -> None:
    """Neither its publisher nor who asks for heads, reads, resumes or connects; and if it fails nobody ever is."""
    await stand.start()
    alice = await stand.member("alice", "c1")
    await stand.publish("c1", "one")
    await stand.settle()
    async with held_open(stand, stand.publication("c1", "two"), failure=failure) as (publishing,):
        late, back = await stand.connect("alice", "c1"), await stand.connect("alice")
        await back.subscribe("c1", last=0)
        history = await stand.service.message_retrieval.retrieve(
            alice.identity, Range(chat_id="c1", limit=10, ascending=False)
        )
        assert await stand.head("c1") == history.head.sequence == 1
        assert len(history.page.bodies) == len(await stand.numbered("c1")) == 1
        assert [client.of_type("subscribed")[0]["headSequence"] for client in (late, back)] == [1, 1]
        assert not publishing.done()
    (answer,) = await publishing
    assert isinstance(answer, Receipt) is (failure is None)
    await stand.settle()
    numbers = [1, 2] if failure is None else [1]
    assert await stand.head("c1") == numbers[-1]
    assert await stand.numbered("c1") == stand.numbers(alice, "c1") == stand.numbers(back, "c1") == numbers
    assert stand.numbers(late, "c1") == numbers[1:]


async def test_more_than_one_transaction_holds_is_committed_in_turn(
    bare: EmbeddedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MAX_BATCH", 10)
    batches = [[bare.publication("c1", (batch, index)) for index in range(4)] for batch in range(10)]
    await asyncio.gather(*[bare.engine.bus.publish(batch) for batch in batches])
    assert commits(bare) == 5
    rows = await bare.history("c1")
    assert [row["payload"]["content"] for row in rows] == [[batch, index] for batch in range(10) for index in range(4)]


async def test_a_job_that_fails_is_undone_alone_and_its_caller_alone_is_told(bare: EmbeddedHarness) -> None:
    def good(connection: apsw.Connection, name: str) -> int:
        connection.execute("INSERT INTO meta VALUES (?, 1)", (name,))
        return connection.changes()

    def bad(connection: apsw.Connection) -> int:
        good(connection, "bad")
        raise ZeroDivisionError("a defect of the job's own")

    write = bare.embedded.bus.commits.write
    done = await asyncio.gather(
        write(lambda connection: good(connection, "one")),
        write(bad),
        bare.publish("c1"),
        write(lambda connection: good(connection, "two")),
        write(lambda connection: good(connection, "one")),  # there is one already
        return_exceptions=True,
    )
    assert done[0] == done[3] == 1
    assert isinstance(done[1], ZeroDivisionError)
    assert isinstance(done[2], Receipt)
    assert isinstance(done[4], apsw.ConstraintError)
    names = await write(lambda connection: connection.execute("SELECT name FROM meta WHERE value = 1").fetchall())
    assert names == [("one",), ("two",)]


@pytest.mark.parametrize("failpoint", ["publish.accepted", "commit.before_sync"])
async def test_a_failed_commit_leaves_nothing_and_numbers_go_on_where_they_were(
    stand: EmbeddedHarness, failpoint: str
) -> None:
    await stand.start(Options(failpoints=f"{failpoint}=raise@2"), consumers={})
    await stand.publish("c1", "one")
    outcomes = await asyncio.gather(
        stand.publish("c1", "lost", id="id-1"),
        stand.publish("new", "lost"),
        stand.grant("alice", "c1", "owner"),
        return_exceptions=True,
    )
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Refusal)] == ["unavailable"] * 3
    assert (await stand.head("c1"), await stand.head("new")) == (1, 0)
    assert await stand.history("new") == []
    assert await stand.engine.permissions.roles([("alice", "c1")]) == [None]
    assert not (await stand.publish("c1", "two", id="id-1")).duplicate
    await stand.publish("other", "first")
    await stand.publish("new", "first")
    assert [row["payload"]["content"] for row in await stand.history("c1")] == ["one", "two"]
    await stand.settle()
    await stand.restart()
    for chat, contents in {"c1": ["one", "two"], "other": ["first"], "new": ["first"]}.items():
        assert [row["payload"]["content"] for row in await stand.history(chat)] == contents
        assert await stand.numbered(chat) == list(range(1, len(contents) + 1))


async def test_a_commit_that_stands_although_it_failed_is_found_and_goes_its_way(stand: EmbeddedHarness) -> None:
    """The publisher has heard "unknown": his repetition finds the message."""
    fifo = Recorder()
    await stand.start(Options(failpoints="commit.after_sync=raise@2"), consumers={WEBSOCKET_FIFO_QUEUE: fifo})
    await stand.publish("c1", "one")
    assert await refusal_of(stand.publish("c1", "two", id="id-1")) == "unavailable"
    again = await stand.publish("c1", "two", id="id-1")
    assert again.duplicate
    await stand.publish("c1", "three")
    await stand.settle()
    assert fifo.contents("c1") == ["one", "two", "three"]
    assert await stand.numbered("c1") == [1, 2, 3]


async def test_a_role_is_asked_for_anew_when_it_is_unknown_what_became_of_its_change(stand: EmbeddedHarness) -> None:
    await stand.start(Options(failpoints="commit.after_sync=raise@2"), consumers={})
    await stand.grant("alice", "c1", "owner")
    assert await stand.engine.permissions.roles([("bob", "c1")]) == [None]
    assert await refusal_of(stand.grant("bob", "c1", "member")) == "unavailable"
    assert await stand.engine.permissions.roles([("bob", "c1")]) == ["member"]


async def test_a_publisher_who_has_gone_away_costs_the_others_nothing(bare: EmbeddedHarness) -> None:
    async with held_open(bare, *[bare.publication("c1", number) for number in (1, 2)]) as (first, second):
        first.cancel()
    await second
    await bare.publish("c1", 3)
    assert [row["payload"]["content"] for row in await bare.history("c1")] == [1, 2, 3]


async def test_publishers_wait_while_the_log_is_crowded_and_other_writes_do_not(
    bare: EmbeddedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MAX_UNMOVED", 3)
    gate = asyncio.Event()

    async def hold(messages: object) -> None:
        await gate.wait()

    bare.meddle(MESSAGE_STORAGE_QUEUE, hold)
    await bare.publish_many("c1", [1, 2, 3, 4])
    waiting = asyncio.ensure_future(bare.publish("c1", 5))
    await bare.grant("alice", "c1", "member")
    assert not waiting.done()
    gate.set()
    await bare.clock.run(waiting)
    assert await bare.numbered("c1") == [1, 2, 3, 4, 5]


async def test_when_the_store_cannot_be_opened_anew_all_are_told_and_the_engine_can_be_stopped(
    stand: EmbeddedHarness,
) -> None:
    await stand.start(Options(failpoints="commit.before_sync=raise@2"), consumers={})
    await stand.publish("c1", "one")
    shutil.rmtree(stand.data)
    outcomes = await asyncio.gather(*[stand.publish("c1", "two") for _ in range(3)], return_exceptions=True)
    assert {outcome.code for outcome in outcomes if isinstance(outcome, Refusal)} == {"unavailable"}
    with pytest.raises(apsw.CantOpenError):
        await stand.embedded.fatal
    assert await refusal_of(stand.publish("c1", "three")) == "unavailable"
    assert await refusal_of(stand.grant("alice", "c1", "owner")) == "unavailable"
    await stand.stop()


async def test_an_engine_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    engine = EmbeddedEngine(EmbeddedSettings(data=tmp_path), frame=bytes)
    await engine.stop()
    engine = EmbeddedEngine(EmbeddedSettings(data=tmp_path), frame=bytes)
    await engine.stop()
