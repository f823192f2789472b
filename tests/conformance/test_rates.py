"""Rates: so many publishes a second for each user in each chat, and a burst of them at once."""

import pytest

from tests.conformance.harness import Harness, Options

#: So many at once are no limit.
UNLIMITED = 200


@pytest.fixture
async def limited(stand: Harness) -> Harness:
    """Ten a second, five at once."""
    await stand.start(Options(publish_rate=10, publish_burst=5), consumers={})
    return stand


def burst(harness: Harness, user_id: str = "alice", chat_id: str = "c1") -> int:
    """How many go through at once."""
    for number in range(UNLIMITED):
        if harness.engine.rates.take(user_id, chat_id):
            return number
    return UNLIMITED


def at_most(harness: Harness, number: int) -> int:
    """Without the strength nobody is held back."""
    return number if "rates" in harness.engine.strengths else UNLIMITED


async def test_a_burst_goes_through_and_then_no_more(limited: Harness) -> None:
    assert burst(limited) == at_most(limited, 5)
    assert burst(limited) == at_most(limited, 0)


async def test_each_user_has_a_bucket_for_each_chat(limited: Harness) -> None:
    bursts = [burst(limited, user, chat) for user in ("alice", "bob") for chat in ("c1", "c2")]
    assert bursts == [at_most(limited, 5)] * 4


async def test_who_waits_as_long_as_he_is_told_gets_through(limited: Harness) -> None:
    burst(limited)
    for _ in range(5):
        wait = limited.engine.rates.take("alice", "c1")
        assert wait == pytest.approx(0.1 if "rates" in limited.engine.strengths else 0.0, abs=0.001)
        limited.clock.advance(wait + 0.000_001)
        assert limited.engine.rates.take("alice", "c1") == 0.0


async def test_a_bucket_fills_at_its_rate_up_to_the_burst(limited: Harness) -> None:
    burst(limited)
    limited.clock.advance(0.301)
    assert burst(limited) == at_most(limited, 3)
    limited.clock.advance(1_000)
    assert burst(limited) == at_most(limited, 5)


async def test_the_walls_clock_changes_no_rate(limited: Harness) -> None:
    burst(limited)
    limited.clock.jump(86_400_000)
    assert burst(limited) == at_most(limited, 0)
    limited.clock.jump(-2 * 86_400_000)
    limited.clock.advance(0.101)
    assert burst(limited) == at_most(limited, 1)
