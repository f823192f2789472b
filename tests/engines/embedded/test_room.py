"""A listener stands in one set of its room, and what it misses is counted by where it stood."""

import pytest

from tocsin.clients import Connection
from tocsin.engines.embedded.room import MAX_HELD_BYTES, HubConnection, Listener, Room
from tocsin.identity import Identity


@pytest.fixture
def room() -> Room:
    """Ten numbers and four plain messages were handed to it, of which two and one are gathered."""
    room = Room("c1", 0)
    room.cursor, room.unnumbered = 10, 4
    room.written_cursor, room.written_unnumbered = 8, 3
    return room


@pytest.fixture
def listener(room: Room) -> Listener:
    connection = Connection(
        connection_id="one",
        identity=Identity(user_id="alice", expires_at=1 << 60),
        source_ip="192.0.2.1",
        user_agent="suite/1",
        connected_at=0,
        last_active_at=0,
    )
    return Listener(HubConnection(connection), room)


def stands_in(room: Room, listener: Listener) -> list[str]:
    return [name for name in ("pending", "ahead", "members", "aside") if listener in getattr(room, name)]


def test_who_has_everything_becomes_a_member(room: Room, listener: Listener) -> None:
    listener.floor = 10
    room.let_in(listener)
    assert stands_in(room, listener) == ["members"]


def test_whose_replay_went_further_than_the_room_is_ahead(room: Room, listener: Listener) -> None:
    listener.floor = 12
    room.let_in(listener)
    assert stands_in(room, listener) == ["ahead"]


@pytest.mark.parametrize(("floor", "missed"), [(10, 11), (12, 13), (7, 11)])
def test_one_that_takes_no_more_when_it_is_let_in_misses_what_comes_from_then_on(
    room: Room, listener: Listener, floor: int, missed: int
) -> None:
    listener.connection.is_stalled = True
    listener.floor = floor
    listener.missed_unnumbered = 2  # since it stalled
    room.let_in(listener)
    assert stands_in(room, listener) == ["aside"]
    assert (listener.missed_from, listener.missed_unnumbered) == (missed, 2)


def test_a_member_that_takes_no_more_misses_what_the_room_has_gathered(room: Room, listener: Listener) -> None:
    room.members.add(listener)
    room.set_aside(listener)
    assert stands_in(room, listener) == ["aside"]
    assert room.take_back(listener) == (9, 10, 1)
    assert stands_in(room, listener) == ["members"]


def test_one_that_is_ahead_misses_what_is_above_its_floor(room: Room, listener: Listener) -> None:
    listener.floor = 12
    room.ahead.add(listener)
    room.set_aside(listener)
    room.cursor = 11
    assert room.take_back(listener) == (None, 11, 0)
    assert stands_in(room, listener) == ["ahead"]
    room.set_aside(listener)
    room.cursor = 14
    assert room.take_back(listener) == (13, 14, 0)
    assert stands_in(room, listener) == ["members"]


def test_one_that_is_pending_stays_so_and_misses_plain_messages_only(room: Room, listener: Listener) -> None:
    room.pending.add(listener)
    room.set_aside(listener)
    room.cursor, room.unnumbered = 20, 6
    assert room.take_back(listener) == (None, 0, 2)
    assert room.take_back(listener) == (None, 0, 0)
    assert stands_in(room, listener) == ["pending"]


def test_being_set_aside_again_forgets_nothing_that_was_missed(room: Room, listener: Listener) -> None:
    room.members.add(listener)
    room.set_aside(listener)
    room.cursor, room.unnumbered = 12, 6
    room.set_aside(listener)
    assert room.take_back(listener) == (9, 12, 3)


def test_a_member_has_missed_nothing(room: Room, listener: Listener) -> None:
    room.members.add(listener)
    assert room.take_back(listener) == (None, 0, 0)


def test_frames_are_held_from_the_moment_they_are_owed_and_up_to_a_bound(room: Room, listener: Listener) -> None:
    room.hold(listener, b"too early")
    assert listener.held is None
    listener.held = []
    room.hold(listener, b"one")
    assert listener.held == [b"one"]
    room.hold(listener, b"x" * MAX_HELD_BYTES)
    assert listener.held is None


def test_who_has_gone_stands_nowhere(room: Room, listener: Listener) -> None:
    for name in ("pending", "ahead", "members", "aside"):
        getattr(room, name).add(listener)
        assert not room.is_empty
        room.discard(listener)
        assert room.is_empty
