"""Claims: a table for each minute, dropped whole, and a filter before it that never says no to what is there."""

from collections.abc import Iterator
from random import Random

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.bus import Receipt
from tocsin.engines.embedded.dedupe import KEPT, MINUTE, Claims, _Filter
from tocsin.errors import Refusal
from tocsin.message import Publication

START = 30_000_000 * MINUTE


def publication(id: str, content: str = "hello", message_id: str = "m") -> Publication:
    return Publication(
        message_id=f"{message_id} of {id}",
        timestamp=1_000,
        sender_id="alice",
        chat_id="c1",
        target_channel="WebSocket",
        message_type="fifo",
        payload=content.encode(),
        deduplication_id=id,
    )


class Store:
    """The claims of one store; each call of `claim` is a commit of its own."""

    def __init__(self, capacity: int = 1_000) -> None:
        self.connection = apsw.Connection(":memory:")
        self.capacity = capacity
        self.restart()

    def restart(self) -> None:
        self.claims = Claims(self.connection, self.capacity)

    def claim(self, one: Publication, now: int, *, commits: bool = True) -> Receipt | Refusal | None:
        answer = self.claims.find(self.connection, one, now)
        try:
            with self.connection:
                self.claims.write(self.connection, now)
                if not commits:
                    raise InterruptedError
        except InterruptedError:
            pass
        self.claims.settle(now, committed=commits)
        return answer

    def tables(self) -> list[int]:
        rows = self.connection.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'claims_%'").fetchall()
        return sorted(int(str(name).removeprefix("claims_")) - START // MINUTE for (name,) in rows)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.connection.close()


def test_each_minute_has_a_table_and_six_are_kept(store: Store) -> None:
    for minute in (0, 1, 3, 5, 6, 7, 30):
        assert store.claim(publication(f"id-{minute}"), START + minute * MINUTE) is None
    assert store.tables() == [30]
    for minute in range(31, 35):
        store.claim(publication(f"id-{minute}"), START + minute * MINUTE)
    assert store.tables() == [30, 31, 32, 33, 34]
    store.claim(publication("id-36"), START + 36 * MINUTE)
    assert store.tables() == [31, 32, 33, 34, 36]
    assert len(store.tables()) <= KEPT


def test_a_minute_without_ids_makes_no_table(store: Store) -> None:
    with store.connection:
        store.claims.write(store.connection, START)
    store.claims.settle(START, committed=True)
    assert store.tables() == []


def test_a_commit_that_failed_claimed_nothing(store: Store) -> None:
    assert store.claim(publication("id-1", message_id="lost"), START, commits=False) is None
    assert store.claim(publication("id-1"), START) is None
    found = store.claim(publication("id-1"), START)
    assert isinstance(found, Receipt)
    assert found.message_id == "m of id-1"


def test_a_clock_that_is_set_back_fills_the_newest_table_and_forgets_nothing(store: Store) -> None:
    store.claim(publication("id-1"), START + 10 * MINUTE)
    assert store.claim(publication("id-2"), START) is None
    assert store.tables() == [10]
    for id in ("id-1", "id-2"):
        assert isinstance(store.claim(publication(id), START + 14 * MINUTE), Receipt)


def test_the_bound_counts_what_is_remembered_and_what_is_being_committed() -> None:
    store = Store(capacity=3)
    assert store.claim(publication("id-0"), START) is None
    store.restart()
    for id in ("id-1", "id-2"):
        assert store.claims.find(store.connection, publication(id), START) is None
    refused = store.claims.find(store.connection, publication("id-3"), START)
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.retry_after) == ("rate_limited", KEPT * MINUTE / 1000)
    store.claims.settle(START, committed=False)
    assert store.claim(publication("id-3"), START) is None
    store.connection.close()


def test_who_waits_as_long_as_he_is_told_finds_room() -> None:
    store = Store(capacity=2)
    for id in ("id-0", "id-1"):
        store.claim(publication(id), START + 40_000)
    refused = store.claim(publication("id-2"), START + 90_000)
    assert isinstance(refused, Refusal)
    assert refused.retry_after is not None
    assert store.claim(publication("id-2"), START + 90_000 + round(refused.retry_after * 1000)) is None
    store.connection.close()


def test_the_filter_knows_all_that_it_was_given_and_little_else() -> None:
    random = Random(7)
    known = [random.randbytes(16) for _ in range(50_000)]
    others = [random.randbytes(16) for _ in range(50_000)]
    bloom = _Filter()
    for key in known:
        bloom.add(key)
    assert all(map(bloom.may_have, known))
    assert sum(map(bloom.may_have, others)) < 50


@settings(max_examples=60, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["id-1", "id-2", "id-3"]),
            st.sampled_from(["hello", "other"]),
            st.sampled_from([0, 1, 20_000, MINUTE, 4 * MINUTE, 7 * MINUTE]),
            st.sampled_from(["commits", "commits", "fails", "restarts"]),
        ),
        max_size=40,
    )
)
def test_an_id_is_known_for_five_minutes_whatever_happens(steps: list[tuple[str, str, int, str]]) -> None:
    store = Store()
    now = START
    known: dict[str, tuple[str, str, int]] = {}
    for number, (id, content, later, what) in enumerate(steps):
        now += later
        if what == "restarts":
            store.restart()
        one = publication(id, content, f"m{number}")
        answer = store.claim(one, now, commits=what != "fails")
        if id in known and now - known[id][2] <= 5 * MINUTE:
            assert answer is not None
        match answer:
            case None:
                if what != "fails":
                    known[id] = content, one.message_id, now
            case Receipt():
                assert (answer.message_id, answer.duplicate, content) == (known[id][1], True, known[id][0])
            case Refusal():
                assert (answer.code, content != known[id][0]) == ("idempotency_conflict", True)
    store.connection.close()
