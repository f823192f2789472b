"""What is kept in memory alone is bounded: tickets, rates, chats."""

import pytest

from tests.conformance.harness import identity, refusal_of
from tests.manual_clock import ManualClock
from tocsin.engines.embedded import memory_rates, memory_tickets
from tocsin.engines.embedded.chats import Chat, Chats
from tocsin.engines.embedded.memory_rates import MemoryRates
from tocsin.engines.embedded.memory_tickets import MemoryTickets

# -- tickets ---------------------------------------------------------------------------------------------------------


async def test_so_many_tickets_are_out_and_no_more_until_some_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_tickets, "CAPACITY", 3)
    tickets = MemoryTickets()
    first = await tickets.offer(identity("alice"), 1_000)
    for _ in range(2):
        await tickets.offer(identity("alice"), 30_000)
    assert await refusal_of(tickets.offer(identity("bob"), 60_000)) == "rate_limited"
    await tickets.redeem(first, 60_000)
    await tickets.offer(identity("bob"), 60_000)
    assert await refusal_of(tickets.offer(identity("bob"), 60_000)) == "rate_limited"
    await tickets.offer(identity("bob"), 91_000)


async def test_a_ticket_is_not_to_be_had_from_where_it_is_kept() -> None:
    tickets = MemoryTickets()
    ticket = await tickets.offer(identity("alice"), 1_000)
    kept = repr(vars(tickets)).encode()
    assert ticket.encode() not in kept


# -- rates -----------------------------------------------------------------------------------------------------------


def test_buckets_that_are_full_again_are_forgotten(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_rates, "SWEEP_AT", 100)
    rates = MemoryRates(10, 5, clock.monotonic)
    for number in range(5_000):
        assert rates.take(f"user {number}", "c1") == 0.0
        clock.advance(0.01)
    assert len(rates._full_at) <= 200


def test_a_sweep_forgets_nobody_who_is_held_back(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_rates, "SWEEP_AT", 10)
    rates = MemoryRates(1, 2, clock.monotonic)
    assert [rates.take("alice", "c1") for _ in range(3)] == [0.0, 0.0, pytest.approx(1.0)]
    for number in range(100):
        rates.take(f"user {number}", "c1")
    assert rates.take("alice", "c1") == pytest.approx(1.0)


# -- chats -----------------------------------------------------------------------------------------------------------


def chat(number: int, *, unmoved: bool = False, drawn: bool = False) -> Chat:
    made = Chat(f"c{number}", number + 1, sequence=5, ordinal=5)
    if unmoved:
        made.unmoved.append(1, 1, 1, 1)
    if drawn:
        made.drawn_ordinal += 1
    return made


def test_chats_that_nobody_needs_are_forgotten_oldest_first() -> None:
    chats = Chats(capacity=10)
    for number in range(1_000):
        chats.add(chat(number))
        assert len(chats) <= 10
    assert chats.get("c999") is not None
    assert chats.get("c0") is None


def test_a_chat_with_messages_that_only_the_log_has_is_never_forgotten() -> None:
    chats = Chats(capacity=10)
    needed = [chats.add(chat(number, unmoved=number % 2 == 0, drawn=number % 2 == 1)) for number in range(50)]
    for number in range(50, 300):
        chats.add(chat(number))
    assert all(chats.get(one.chat_id) is one for one in needed)
    assert len(chats) <= 2 * len(needed)


def test_the_chat_that_was_there_first_stays() -> None:
    chats = Chats()
    first = chats.add(chat(1))
    assert chats.add(chat(1)) is first
    assert list(chats) == [first]
