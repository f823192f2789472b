"""Tickets on DynamoDB: a row that is spent once, and says afterwards what the ticket allowed."""

import pytest

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import identity
from tests.engines.aws.containers import container, cut, tap

pytestmark = pytest.mark.slow


async def test_who_spent_it_and_lost_the_answer_comes_in_and_nobody_else(bare: AwsHarness) -> None:
    now, tickets = bare.clock.now(), bare.engine.tickets
    ticket = await tickets.offer(identity("alice"), now)
    cut(bare.aws.dynamodb, "UpdateItem")
    assert await bare.clock.run(tickets.redeem(ticket, now)) == identity("alice")
    with container(bare) as other:
        assert await other.protocols.tickets.redeem(ticket, now) is None


async def test_connect_reads_what_a_spent_ticket_allows(bare: AwsHarness) -> None:
    now, tickets = bare.clock.now(), bare.aws.tickets
    chats = frozenset(f"{number:0128}" for number in range(300))
    for limit in (chats, frozenset({"c1"}), frozenset[str](), None):
        ticket = await tickets.offer(identity("alice", chat_ids=limit), now)
        assert await tickets.redeem(ticket, now) is not None
        assert await tickets.limit_of(ticket) == limit
    assert await tickets.limit_of("unknown") is None


async def test_a_ticket_stands_nowhere(bare: AwsHarness) -> None:
    written = tap(bare.aws.dynamodb, "PutItem")
    ticket = await bare.engine.tickets.offer(identity("alice"), bare.clock.now())
    assert ticket not in str(written)
