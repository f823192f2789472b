"""The clocks over all connections: time is the test's, the sockets are real."""

import asyncio
import itertools
import select
import socket

import pytest

from tests.gateways.conftest import Connect, StartFront
from tests.gateways.echo import Echo, Time, eventually
from tests.gateways.peer import Peer, close, frame, text, upgrade_head
from tocsin.gateways.frames import BINARY, PING, PONG, TEXT, text_frame
from tocsin.gateways.front import Front
from tocsin.gateways.handshake import UpgradeRequest
from tocsin.gateways.keepalive import BUCKETS, State, WebSocketSettings
from tocsin.gateways.port import PortSettings
from tocsin.gateways.websocket import Accepted, WebSocketConnection


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
    peers = [await connect() for _ in range(20)]
    for peer in peers:
        await peer.upgrade()
    pinged = [0]
    for _ in range(100):
        time.pass_by(0.25, front.sweep)
        pinged.append(len(select.select([peer.sock for peer in peers], [], [], 0)[0]))
    assert pinged[-1] == 20 <= BUCKETS
    assert max(after - before for before, after in itertools.pairwise(pinged)) == 1


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


# An idle limit, and an end to a connection's life


@pytest.fixture
async def limited(start_front: StartFront) -> Front:
    """As API Gateway has it."""
    return await start_front(PortSettings(websocket=WebSocketSettings(idle_limit=600, connection_life=7_200)))


async def pass_by(front: Front, time: Time, peer: Peer, seconds: int) -> None:
    """Lets time go by in which the client only answers pings."""
    for _ in range(seconds // 25):
        time.pass_by(25, front.sweep)
        assert await peer.frame() == (PING, b"")
        await peer.send(frame(PONG))
        await eventually(lambda: [connection.last_active for connection in front.keepalive] == [time.now])


async def test_who_says_and_hears_nothing_for_the_idle_limit_is_sent_away_though_it_answers_pings(
    limited: Front, echo: Echo, time: Time, connect: Connect
) -> None:
    peer = await connect()
    await peer.upgrade()
    await peer.send(frame(PING) + frame(PING, b"2"))
    assert [await peer.frame(), await peer.frame()] == [(PONG, b""), (PONG, b"2")]
    await pass_by(limited, time, peer, 575)
    time.pass_by(24.75, limited.sweep)
    assert [connection.state for connection in limited.keepalive] == [State.OPEN]
    time.pass_by(600 / 60 + 0.25, limited.sweep)
    assert await peer.close_code() == 1001
    await peer.send(close(1001))
    assert (await echo.next("closed"))[1] == 1001


@pytest.mark.parametrize("heard", [True, False], ids=["sends", "is sent"])
async def test_a_message_either_way_ends_idleness(
    limited: Front, echo: Echo, time: Time, connect: Connect, heard: bool
) -> None:
    peer = await connect()
    await peer.upgrade()
    connection, _ = await echo.next("opened")
    for _ in range(3):
        await pass_by(limited, time, peer, 500)
        if heard:
            await peer.send(frame(BINARY, b"x"))
            assert await peer.frame() == (BINARY, b"x")
        else:
            connection.write(text_frame(b"x"))
            assert await peer.frame() == (TEXT, b"x")
    assert connection.state is State.OPEN


async def test_whom_we_do_not_listen_to_is_not_idle(limited: Front, echo: Echo, time: Time, connect: Connect) -> None:
    await (await connect()).upgrade()
    connection, _ = await echo.next("opened")
    connection.pause_reading()
    time.pass_by(700, limited.sweep)
    assert connection.state is State.OPEN
    connection.resume_reading()
    time.pass_by(15, limited.sweep)
    assert connection.state is State.OPEN


async def test_our_own_silence_is_not_the_clients_idleness(
    limited: Front, echo: Echo, time: Time, connect: Connect
) -> None:
    await (await connect()).upgrade()
    connection, _ = await echo.next("opened")
    time.now += 3_600  # the process was stopped
    limited.sweep(time.now)
    time.pass_by(20, limited.sweep)
    assert connection.state is State.OPEN


@pytest.mark.parametrize("idle_limit", [0, 600])
async def test_a_connection_has_its_life_and_no_more_however_much_is_said(
    start_front: StartFront, time: Time, connect: Connect, idle_limit: int
) -> None:
    settings = WebSocketSettings(idle_limit=idle_limit, connection_life=300)
    front = await start_front(PortSettings(websocket=settings))
    peer = await connect()
    await peer.upgrade()
    for _ in range(11):
        await pass_by(front, time, peer, 25)
        await peer.send(text("x"))
        assert await peer.frame() == (TEXT, b"x")
    time.pass_by(24.75, front.sweep)
    assert [connection.state for connection in front.keepalive] == [State.OPEN]
    time.pass_by(300 / 60 + 0.25, front.sweep)
    assert await peer.close_code() == 1001


async def test_without_limits_an_idle_connection_stays(front: Front, time: Time, peer: Peer) -> None:
    await pass_by(front, time, peer, 2_000)
    assert [connection.state for connection in front.keepalive] == [State.OPEN]


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
    time.pass_by(9.5, front.sweep)
    assert echo.refused == []
    time.pass_by(0.5, front.sweep)
    response = await peer.response()
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert await peer.at_end()
    assert echo.told == []
