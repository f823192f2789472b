"""Tickets: a secret that stands for its maker once, within a minute."""

import asyncio

import pytest

from tests.conformance.harness import Harness, identity
from tests.manual_clock import START as NOW
from tocsin.tables import Tickets


@pytest.fixture
def tickets(bare: Harness) -> Tickets:
    return bare.engine.tickets


async def test_a_ticket_stands_for_its_maker_with_all_that_limits_him(tickets: Tickets) -> None:
    maker = identity("alice", "publish:any", expires_at=NOW + 4_000, chat_ids=["c1", "c2"])
    assert await tickets.redeem(await tickets.offer(maker, NOW), NOW + 1_000) == maker


async def test_a_ticket_works_once(tickets: Tickets) -> None:
    """Invariant 19."""
    ticket = await tickets.offer(identity("alice"), NOW)
    found = await asyncio.gather(*[tickets.redeem(ticket, NOW + 1_000) for _ in range(5)])
    assert sorted(one is None for one in found) == [False, True, True, True, True]
    assert await tickets.redeem(ticket, NOW + 1_000) is None


async def test_a_ticket_lives_for_sixty_seconds(tickets: Tickets) -> None:
    young, old = [await tickets.offer(identity("alice"), NOW) for _ in range(2)]
    assert await tickets.redeem(young, NOW + 59_999) is not None
    assert await tickets.redeem(old, NOW + 60_001) is None
    assert await tickets.redeem(old, NOW + 1_000) is None


async def test_what_was_never_offered_is_nobodys(tickets: Tickets) -> None:
    await tickets.offer(identity("alice"), NOW)
    for guess in ("", "guess", "ü", "a" * 10_000):
        assert await tickets.redeem(guess, NOW) is None


async def test_tickets_can_neither_be_guessed_nor_confused(tickets: Tickets) -> None:
    offered = {await tickets.offer(identity(f"user{number}"), NOW): f"user{number}" for number in range(50)}
    assert len(offered) == 50
    assert min(map(len, offered)) >= 40
    for ticket, user_id in offered.items():
        found = await tickets.redeem(ticket, NOW + 1)
        assert found is not None
        assert found.user_id == user_id
