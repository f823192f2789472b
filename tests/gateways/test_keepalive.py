"""The clocks over all connections: time is the test's, the sockets are real."""

import asyncio
import socket

import pytest

from tests.gateways.conftest import Connect
from tests.gateways.echo import Echo, Time, eventually
from tests.gateways.peer import Peer, frame, text, upgrade_head
from tocsin.gateways.frames import PING, PONG, TEXT, text_frame
from tocsin.gateways.front import Front
from tocsin.gateways.handshake import UpgradeRequest
from tocsin.gateways.websocket import BUCKETS, Accepted, State, WebSocketConnection


@pytest.fixture
async def peer(front: Front, connect: Connect) -> Peer:
    """A client that is connected."""
    peer = await connect()
    assert (await peer.upgrade()).status == 101
    return peer


@pytest.fixture
async def stuck(front: Front, echo: Echo, connect: Connect) -> tuple[Peer, WebSocketConnection]:
    """A client that does not read, and the connection that is stalled by it."""
    peer = await connect(receive_buffer=4_096)
    await peer.send(upgrade_head())
    connection, _ = await echo.next("opened")
    connection.write(text_frame(b"x" * 100_000) * 15)
    await echo.next("stalled")
    return peer, connection


async def test_who_answers_pings_stays_and_is_pinged_every_25_seconds(
    front: Front, echo: Echo, time: Time, peer: Peer
) -> None:
    for _ in range(4):
        time.pass_by(25, front.sweep)
        assert await peer.frame() == (PING, b"")
        await peer.send(frame(PONG) + text("heard"))
        assert await peer.frame() == (TEXT, b"heard")
    assert echo.told == ["opened", *["received"] * 4]


async def test_any_message_counts_as_a_sign_of_life(front: Front, time: Time, peer: Peer) -> None:
    time.pass_by(25, front.sweep)
    await peer.frame()
    await peer.send(text("no pong"))
    assert await peer.frame() == (TEXT, b"no pong")
    time.pass_by(20, front.sweep)
    assert [connection.state for connection in front.keepalive] == [State.OPEN]


async def test_who_does_not_answer_a_ping_within_20_seconds_is_closed(
    front: Front, echo: Echo, time: Time, peer: Peer
) -> None:
    time.pass_by(25, front.sweep)
    assert await peer.frame() == (PING, b"")
    time.pass_by(19.5, front.sweep)
    assert [connection.state for connection in front.keepalive] == [State.OPEN]
    time.pass_by(25, front.sweep)
    assert await peer.close_code() == 1011
    time.pass_by(6, front.sweep)
    assert (await echo.next("closed"))[1] == 1011


async def test_the_pings_of_a_storm_are_spread_over_the_interval(front: Front, time: Time, connect: Connect) -> None:
    for _ in range(20):
        await (await connect()).upgrade()
    pinged = []
    for connection in front.keepalive:
        connection.write = lambda sent: pinged.append(time.now)
    time.pass_by(25, front.sweep)
    assert len(pinged) == 20
    assert len(set(pinged)) == 20 <= BUCKETS


async def test_a_late_sweep_is_not_held_against_the_clients(front: Front, echo: Echo, time: Time, peer: Peer) -> None:
    time.pass_by(25, front.sweep)
    time.now += 3_600  # the process was stopped
    front.sweep(time.now)
    await peer.send(frame(PONG) + text("I was here all the time"))
    assert (await peer.frame())[0] == PING
    await echo.next("received")
    time.pass_by(19, front.sweep)
    assert [connection.state for connection in front.keepalive] == [State.OPEN]


async def test_whom_the_application_does_not_read_is_not_called_silent(
    front: Front, echo: Echo, time: Time, peer: Peer
) -> None:
    connection, _ = await echo.next("opened")
    connection.pause_reading()
    time.pass_by(60, front.sweep)
    assert connection.state is State.OPEN
    connection.resume_reading()
    time.pass_by(15, front.sweep)  # the pong to the ping before is late, and was never read
    assert connection.state is State.OPEN


async def test_who_reads_nothing_for_30_seconds_is_closed_as_too_slow(
    front: Front, echo: Echo, time: Time, stuck: tuple[Peer, WebSocketConnection]
) -> None:
    peer, connection = stuck
    time.pass_by(29.5, front.sweep)
    assert connection.state is State.STALLED
    time.pass_by(1, front.sweep)  # 4408 is written, but cannot go
    time.pass_by(5, front.sweep)
    assert (await echo.next("closed"))[1] == 4408
    assert len(front.keepalive) == 0
    while not await peer.at_end():
        pass


async def test_who_reads_on_in_time_is_told_4408(
    front: Front, time: Time, stuck: tuple[Peer, WebSocketConnection]
) -> None:
    peer, _ = stuck
    time.pass_by(31, front.sweep)
    await peer.response()
    assert await peer.close_code() == 4408


async def test_a_slow_reader_who_goes_on_reading_is_not_closed(
    front: Front, echo: Echo, time: Time, stuck: tuple[Peer, WebSocketConnection]
) -> None:
    peer, connection = stuck
    await peer.response()
    for _ in range(6):
        before = connection.unsent
        time.pass_by(25, front.sweep)
        while connection.unsent == before:
            await peer.read()
    assert connection.state is State.STALLED


async def test_what_is_written_meanwhile_does_not_hide_that_a_slow_reader_reads(
    front: Front, time: Time, stuck: tuple[Peer, WebSocketConnection]
) -> None:
    peer, connection = stuck
    await peer.response()
    connection.write(text_frame(b"x" * 100_000) * 5)
    before = connection.unsent
    time.pass_by(20, front.sweep)
    while connection.unsent == before:
        await peer.read()
    time.pass_by(20, front.sweep)
    assert connection.state is State.STALLED


async def test_a_stalled_client_is_not_called_silent(
    front: Front, echo: Echo, time: Time, stuck: tuple[Peer, WebSocketConnection]
) -> None:
    peer, connection = stuck
    time.pass_by(28, front.sweep)
    await peer.response()
    while connection.unsent:
        await peer.read()
    await echo.next("writable")
    time.pass_by(18, front.sweep)
    assert connection.state is State.OPEN


async def test_a_client_that_does_not_answer_a_close_is_cut_after_5_seconds(
    front: Front, echo: Echo, time: Time, peer: Peer
) -> None:
    connection, _ = await echo.next("opened")
    connection.close(4401)
    assert await peer.close_code() == 4401
    time.pass_by(4.5, front.sweep)
    assert echo.told == ["opened"]
    time.pass_by(1, front.sweep)
    assert (await echo.next("closed"))[1] == 4401
    assert await peer.at_end()


async def test_a_client_that_hangs_up_but_does_not_read_is_cut_after_5_seconds(
    echo: Echo, time: Time, front: Front, connect: Connect
) -> None:
    peer = await connect(receive_buffer=4_096)
    await peer.send(upgrade_head())
    connection, _ = await echo.next("opened")
    connection.write(text_frame(b"x" * 100_000) * 8)
    assert connection.unsent
    peer.sock.shutdown(socket.SHUT_WR)
    await eventually(lambda: connection.state is State.CLOSING)
    time.pass_by(4.5, front.sweep)
    assert echo.told == ["opened"]
    time.pass_by(1, front.sweep)
    assert (await echo.next("closed"))[1] == 1006


async def test_an_upgrade_that_is_not_decided_within_10_seconds_is_answered_503(
    front: Front, echo: Echo, time: Time, connect: Connect
) -> None:
    async def door(request: UpgradeRequest) -> Accepted:
        await asyncio.Event().wait()
        raise AssertionError

    echo.door = door
    peer = await connect()
    await peer.send(upgrade_head())
    await eventually(lambda: len(front.keepalive.opening()) == 1)
    time.pass_by(10.5, front.sweep)
    response = await peer.response()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert await peer.at_end()
    assert echo.told == []
