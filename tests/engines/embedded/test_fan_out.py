"""A silent room is written at once; a busy one gathers, and writes what it gathered in one go."""

from collections.abc import Iterator

import pytest

from tests.manual_clock import ManualClock, turns
from tocsin.clients import Connection
from tocsin.engines.embedded.fan_out import PACE_SECONDS, FanOut
from tocsin.engines.embedded.prometheus_metrics import PrometheusMetrics
from tocsin.engines.embedded.room import HubConnection, Listener, Room
from tocsin.failpoints import Failpoints
from tocsin.identity import Identity
from tocsin.message import Message


class Sink:
    """A socket that keeps each write apart."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.write = self.writes.append
        self.last_active = 0.0

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError("nobody closes here")


def message(number: int | None) -> Message:
    return Message(
        message_id=f"m{number}",
        chat_id="c",
        target_channel="WebSocket",
        timestamp=0,
        sequence_number=number,
        ordered=True,
        body=b'{"n":%d}' % (number or 0),
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def fan_out(clock: ManualClock) -> FanOut:
    return FanOut(
        frame=lambda payload: payload + b"\n",
        clock=clock,
        metrics=PrometheusMetrics(),
        failpoints=Failpoints(),
    )


def listen(room: Room, count: int) -> Iterator[Sink]:
    for number in range(count):
        connection = HubConnection(
            Connection(
                connection_id=str(number),
                identity=Identity(user_id="u", expires_at=1 << 60),
                source_ip="",
                user_agent="",
                connected_at=0,
                last_active_at=0,
            )
        )
        connection.socket = sink = Sink()
        room.members.add(Listener(connection, room))
        yield sink


async def test_a_silent_room_is_written_at_once_and_a_busy_one_gathers(fan_out: FanOut, clock: ManualClock) -> None:
    room = fan_out.enter("c", 0)
    sinks = list(listen(room, 3))
    clock.advance(1)
    await fan_out.deliver({"c": room}, [message(1)])
    assert all(len(sink.writes) == 1 for sink in sinks)
    for number in (2, 3, 4):
        await fan_out.deliver({"c": room}, [message(number)])
    await turns()
    assert all(len(sink.writes) == 1 for sink in sinks)
    clock.advance(2 * PACE_SECONDS)
    await turns()
    assert all(len(sink.writes) == 2 and sink.writes[1].count(b"\n") == 3 for sink in sinks)
    await fan_out.stop()


async def test_what_is_not_above_the_cursor_is_not_written_again(fan_out: FanOut, clock: ManualClock) -> None:
    room = fan_out.enter("c", 5)
    (sink,) = listen(room, 1)
    clock.advance(1)
    await fan_out.deliver({"c": room}, [message(5), message(6), message(6)])
    assert sink.writes == [b'{"type":"message","n":6}\n']


async def test_a_hole_in_the_numbers_is_told_by_gap(fan_out: FanOut, clock: ManualClock) -> None:
    room = fan_out.enter("c", 0)
    (sink,) = listen(room, 1)
    clock.advance(1)
    await fan_out.deliver({"c": room}, [message(3)])
    assert sink.writes[0] == b'{"type":"gap","chatId":"c","from":1,"to":2}\n'
    assert b'"n":3' in sink.writes[1]
