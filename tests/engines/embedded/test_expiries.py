"""A connection stands under one second at a time, and nothing is due before it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.clients import EXPIRY_WARNING_MILLISECONDS, Connection
from tocsin.engines.embedded.expiries import Expiries
from tocsin.engines.embedded.room import HubConnection
from tocsin.identity import Identity


def entry(expires_at: int) -> HubConnection:
    return HubConnection(
        Connection(
            connection_id="one",
            identity=Identity(user_id="alice", expires_at=expires_at),
            source_ip="192.0.2.1",
            user_agent="suite/1",
            connected_at=0,
            last_active_at=0,
        )
    )


def test_it_is_due_when_ninety_seconds_are_left_and_when_none_is() -> None:
    expiries, one = Expiries(), entry(1_000_000)
    expiries.enter(one)
    assert expiries.due(1_000_000 - EXPIRY_WARNING_MILLISECONDS - 1) == []
    assert expiries.due(1_000_000 - EXPIRY_WARNING_MILLISECONDS) == [one]
    assert expiries.due(999_999) == []
    assert expiries.due(1_000_000) == [one]
    assert expiries.due(1 << 50) == []


def test_who_sleeps_through_the_warning_is_named_at_the_end() -> None:
    expiries, one = Expiries(), entry(1_000_000)
    expiries.enter(one)
    assert expiries.due(5_000_000) == [one]
    assert expiries.due(5_000_000) == []


def test_the_same_token_again_warns_once() -> None:
    expiries, one = Expiries(), entry(1_000_000)
    for _ in range(3):
        expiries.enter(one)
    assert expiries.due(950_000) == [one]
    expiries.enter(one)
    assert expiries.due(960_000) == []
    assert expiries.due(1_000_000) == [one]


@settings(max_examples=100, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 100_000), st.one_of(st.none(), st.integers(1, 300_000))), min_size=1, max_size=30
    )
)
def test_whatever_is_refreshed_whenever_each_end_is_warned_of_once_and_met_once(
    steps: list[tuple[int, int | None]],
) -> None:
    """Each step: so much later, and perhaps a new token that lives so long."""
    now, one = 0, entry(200_000)
    expiries = Expiries()
    expiries.enter(one)
    named: list[tuple[int, int]] = []
    has_ended = False
    for later, life in steps:
        if has_ended:
            break
        now += later
        for _ in expiries.due(now):
            named.append((one.identity.expires_at, now))
            has_ended = now >= one.identity.expires_at
        if life is not None and not has_ended:
            one.identity = Identity(user_id="alice", expires_at=now + life)
            expiries.enter(one)
    for ends, at in named:
        assert at >= ends - EXPIRY_WARNING_MILLISECONDS
        assert sum(found == (ends, at) for found in named) == 1
    ends = one.identity.expires_at
    rest = [at for at in range(now, ends + 2_000, 1_000) for _ in expiries.due(at)]
    assert len([at for at in rest if at >= ends]) == (0 if has_ended else 1)
    warned = [at for known, at in named if known == ends] + [at for at in rest if at < ends]
    assert len(warned) <= 1 + has_ended
