"""One WebSocket over a real socket: the upgrade, the messages, the end. The clocks are in test_keepalive.py."""

import asyncio

import msgspec
import pytest
import websockets
from structlog.testing import capture_logs

from tests.gateways.conftest import Connect, StartFront
from tests.gateways.echo import Echo, eventually
from tests.gateways.peer import Peer, close, frame, text, upgrade_head
from tocsin.errors import Refusal
from tocsin.gateways.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, text_frame
from tocsin.gateways.front import Front
from tocsin.gateways.handshake import UpgradeRequest
from tocsin.gateways.keepalive import WebSocketSettings
from tocsin.gateways.port import PortSettings
from tocsin.gateways.websocket import Accepted, WebSocketConnection

pytestmark = pytest.mark.usefixtures("front")


@pytest.fixture
async def peer(front: Front, connect: Connect) -> Peer:
    """A client that is connected."""
    peer = await connect()
    assert (await peer.upgrade()).status == 101
    return peer


def close_on(echo: Echo, what: str, code: int) -> None:
    """Let the application close the connection when this happens."""
    echo.on[what] = lambda connection: connection.close(code)


# The upgrade


async def test_the_first_frames_come_in_one_write_with_the_101(echo: Echo, connect: Connect) -> None:
    async def door(request: UpgradeRequest) -> Accepted:
        return Accepted(client="ann", subprotocol="tocsin.v1", frames=text_frame(b"first") + text_frame(b"second"))

    echo.door = door
    echo.on["opened"] = lambda connection: connection.write(text_frame(b"third"))
    peer = await connect()
    await peer.send(upgrade_head("/dvl?chatId=a", "Sec-WebSocket-Protocol: tocsin.v1\r\nX-Request-Id: mine\r\n"))
    read = await peer.read()
    head, _, frames = read.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Protocol: tocsin.v1" in head
    assert b"X-Request-Id: mine" in head
    assert frames.startswith(b"\x81\x05first\x81\x06second")
    connection, _ = await echo.next("opened")
    assert connection.client == "ann"
    assert connection.peer == "127.0.0.1"
    assert echo.requests[0][0].query == [("chatId", "a")]
    assert echo.requests[0][1] == "127.0.0.1"


async def test_frames_that_come_with_the_head_or_during_authorize_are_not_lost(echo: Echo, connect: Connect) -> None:
    may_enter = asyncio.Event()

    async def door(request: UpgradeRequest) -> Accepted:
        await may_enter.wait()
        return Accepted(client=None)

    echo.door = door
    peer = await connect()
    frames = text("with") + text("during")
    await peer.send(upgrade_head() + frames[:3])
    await eventually(lambda: len(echo.requests) == 1)
    await peer.send(frames[3:])
    may_enter.set()
    assert (await peer.response()).status == 101
    assert await peer.frame() == (TEXT, b"with")
    assert await peer.frame() == (TEXT, b"during")


async def test_who_talks_too_much_before_being_let_in_is_not_read(front: Front, echo: Echo, connect: Connect) -> None:
    may_enter = asyncio.Event()

    async def door(request: UpgradeRequest) -> Accepted:
        await may_enter.wait()
        return Accepted(client=None)

    echo.door = door
    peer = await connect()
    sending = asyncio.create_task(peer.send(upgrade_head() + text("x" * 100_000) * 100))
    await eventually(lambda: len(front.keepalive.opening()) == 1)
    connection = front.keepalive.opening()[0]
    transport = connection._transport
    await eventually(lambda: not transport.is_reading())
    assert not sending.done()
    may_enter.set()
    assert (await peer.response()).status == 101
    for _ in range(100):
        assert await peer.frame() == (TEXT, b"x" * 100_000)
    await sending


@pytest.mark.parametrize(
    ("refusal", "status", "header"),
    [
        (Refusal("unauthorized", "Who are you?"), 401, ("www-authenticate", "Bearer")),
        (Refusal("rate_limited", "Later.", retry_after=0.1), 429, ("retry-after", "1")),
        (Refusal("invalid_argument", "No chat.", field="chatId"), 400, ("connection", "close")),
    ],
)
async def test_a_refused_upgrade_is_answered_like_any_request(
    echo: Echo, connect: Connect, refusal: Refusal, status: int, header: tuple[str, str]
) -> None:
    async def door(request: UpgradeRequest) -> Accepted:
        raise refusal

    echo.door = door
    peer = await connect()
    response = await peer.upgrade(extra="X-Request-Id: mine\r\n")
    assert response.status == status
    assert header in response.headers.items()
    assert response.headers["x-request-id"] == "mine"
    body = {"message": refusal.message, "code": refusal.code, "requestId": "mine"}
    assert msgspec.json.decode(response.body) == body | ({"field": refusal.field} if refusal.field else {})
    assert await peer.at_end()
    assert echo.told == []


async def test_a_defect_in_authorize_is_a_500_and_no_credential_is_logged(echo: Echo, connect: Connect) -> None:
    async def door(request: UpgradeRequest) -> Accepted:
        raise ValueError(f"cannot read {request.query}")

    echo.door = door
    peer = await connect()
    with capture_logs() as logs:
        response = await peer.upgrade("/dvl?token=secret", "Authorization: Bearer secret\r\n")
    assert response.status == 500
    assert msgspec.json.decode(response.body)["code"] == "internal"
    assert [entry["error"] for entry in logs] == ["ValueError"]
    assert "test_websocket.py" in str(logs)
    assert "secret" not in f"{logs}{response}"


@pytest.mark.parametrize("politely", [True, False], ids=["FIN", "RST"])
async def test_authorize_is_cancelled_when_the_client_goes_away(
    front: Front, echo: Echo, connect: Connect, politely: bool
) -> None:
    cancelled = asyncio.Event()

    async def door(request: UpgradeRequest) -> Accepted:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    echo.door = door
    peer = await connect()
    await peer.send(upgrade_head())
    await eventually(lambda: len(echo.requests) == 1)
    if politely:
        peer.sock.close()
    else:
        peer.vanish()
    await asyncio.wait_for(cancelled.wait(), 10)
    await eventually(lambda: not front.keepalive.opening())
    assert echo.told == []


async def test_an_accepted_client_that_is_gone_by_then_is_opened_and_closed(echo: Echo, connect: Connect) -> None:
    may_enter = asyncio.Event()

    async def door(request: UpgradeRequest) -> Accepted:
        try:
            await may_enter.wait()
        except asyncio.CancelledError:
            may_enter.set()
        return Accepted(client="ann")

    echo.door = door
    peer = await connect()
    await peer.send(upgrade_head())
    await eventually(lambda: len(echo.requests) == 1)
    peer.vanish()
    connection, code = await echo.next("closed")
    assert (connection.client, code) == ("ann", 1006)
    assert echo.told == ["opened", "closed"]


# Messages


async def test_an_independent_client_hears_its_own_messages(echo: Echo) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{echo.port}/dvl", max_size=None) as client:
        for size in (0, 1, 125, 126, 65_535, 65_536, 131_072):
            await client.send("x" * size)
            assert await client.recv() == "x" * size
        await client.send(["in ", "two ", "fragments é"])
        assert await client.recv() == "in two fragments é"
        await client.send(b"\x00\xff")
        assert await client.recv() == b"\x00\xff"
        await (await client.ping(b"alive?"))
    assert client.close_code == 1000


async def test_all_texts_of_one_read_come_in_one_call_and_binary_in_its_place(echo: Echo, peer: Peer) -> None:
    await peer.send(text("a") + text("b") + frame(PING) + text("c") + frame(BINARY, b"d") + text("e"))
    assert (await echo.next("received"))[1] == [b"a", b"b", b"c"]
    assert (await echo.next("received_binary"))[1] == b"d"
    assert (await echo.next("received"))[1] == [b"e"]


async def test_a_ping_is_answered_with_its_payload(peer: Peer) -> None:
    await peer.send(frame(PING, b"one") + frame(PING, b"two") + frame(PONG, b"unasked"))
    assert await peer.frame() == (PONG, b"one")
    assert await peer.frame() == (PONG, b"two")


async def test_twenty_thousand_pings_are_answered_in_order(peer: Peer) -> None:
    payloads = [number.to_bytes(4, "big") for number in range(20_000)]
    sending = asyncio.create_task(peer.send(b"".join(frame(PING, payload) for payload in payloads)))
    for payload in payloads:
        assert await peer.frame() == (PONG, payload)
    await sending


async def test_who_sends_without_reading_is_not_read_and_costs_no_more(echo: Echo, connect: Connect) -> None:
    peer = await connect(receive_buffer=4_096)
    await peer.send(upgrade_head())
    sending = asyncio.create_task(peer.send(frame(PING, b"x" * 125) * 100_000))
    connection, _ = await echo.next("stalled")
    assert connection.unsent < 1_048_576 + 256_000
    assert not connection._transport.is_reading()
    sending.cancel()


async def test_first_frames_that_are_not_taken_stall_the_connection(echo: Echo, connect: Connect) -> None:
    async def door(request: UpgradeRequest) -> Accepted:
        return Accepted(client=None, frames=text_frame(b"x" * 100_000) * 20)

    echo.door = door
    peer = await connect(receive_buffer=4_096)
    await peer.send(upgrade_head())
    await echo.next("stalled")
    assert echo.told == ["opened", "stalled"]


async def test_a_close_frame_that_overfills_the_buffer_is_not_told_as_a_stall(echo: Echo, connect: Connect) -> None:
    peer = await connect(receive_buffer=4_096)
    await peer.send(upgrade_head())
    connection, _ = await echo.next("opened")
    connection.write(text_frame(b"x" * 500_000))
    connection.write(text_frame(b"x" * (1_048_576 - connection.unsent - 10)))
    connection.close(1001)
    assert connection.unsent > 1_048_576
    assert echo.told == ["opened"]


async def test_reading_goes_on_when_the_client_reads_again(echo: Echo, connect: Connect) -> None:
    peer = await connect(receive_buffer=4_096)
    await peer.send(upgrade_head())
    connection, _ = await echo.next("opened")
    connection.write(text_frame(b"x" * 100_000) * 20)
    await echo.next("stalled")
    await peer.send(text("are you there?"))
    await peer.response()
    for _ in range(20):
        assert await peer.frame() == (TEXT, b"x" * 100_000)
    await echo.next("writable")
    assert await peer.frame() == (TEXT, b"are you there?")


async def test_the_application_may_stop_reading_for_a_while(echo: Echo, peer: Peer) -> None:
    connection, _ = await echo.next("opened")
    connection.pause_reading()
    await peer.send(text("held"))
    connection.write(text_frame(b"meanwhile"))
    assert await peer.frame() == (TEXT, b"meanwhile")
    assert echo.told == ["opened"]
    connection.resume_reading()
    assert await peer.frame() == (TEXT, b"held")


async def test_a_defect_in_the_application_ends_one_connection_and_no_other(
    echo: Echo, peer: Peer, connect: Connect
) -> None:
    def fail(connection: WebSocketConnection) -> None:
        raise ValueError("secret")

    echo.on["received_binary"] = fail
    other = await connect()
    await other.upgrade()
    with capture_logs() as logs:
        await peer.send(frame(BINARY, b"x"))
        assert await peer.close_code() == 1011
    assert "secret" not in str(logs)
    await other.send(text("still here"))
    assert await other.frame() == (TEXT, b"still here")


# The end


async def test_a_close_is_answered_with_its_code_and_the_server_hangs_up(echo: Echo, peer: Peer) -> None:
    await peer.send(text("last") + close(1001) + text("after"))
    assert await peer.frame() == (TEXT, b"last")
    assert await peer.close_code() == 1001
    assert await peer.at_end()
    assert (await echo.next("closed"))[1] == 1001


async def test_a_close_without_a_code_is_answered_without_one(echo: Echo, peer: Peer) -> None:
    await peer.send(frame(CLOSE))
    assert await peer.frame() == (CLOSE, b"")
    assert (await echo.next("closed"))[1] == 1005


async def test_after_close_nothing_more_leaves_and_nothing_more_is_handed_over(echo: Echo, peer: Peer) -> None:
    connection, _ = await echo.next("opened")
    connection.write(text_frame(b"before"))
    connection.close(4403, "not any more")
    connection.close(1000)
    connection.write(text_frame(b"after"))
    assert await peer.frame() == (TEXT, b"before")
    assert await peer.frame() == (CLOSE, (4403).to_bytes(2, "big") + b"not any more")
    await peer.send(text("too late") + frame(PING) + frame(BINARY) + close(1000))
    assert await peer.at_end()
    assert (await echo.next("closed"))[1] == 4403
    connection.write(text_frame(b"long after"))
    connection.close(1000)
    connection.abort()
    assert echo.told == ["opened", "closed"]


MOMENTS = ["opened", "received", "received_binary"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_application_may_close_from_any_call(echo: Echo, connect: Connect, moment: str) -> None:
    close_on(echo, moment, 4400)
    peer = await connect()
    await peer.send(upgrade_head() + text("a") + frame(BINARY, b"b") + text("c") + frame(PING))
    await peer.response()
    assert await peer.close_code() == 4400
    await peer.send(close(4400))
    assert await peer.at_end()
    assert (await echo.next("closed"))[1] == 4400
    assert echo.told == [*MOMENTS[: MOMENTS.index(moment) + 1], "closed"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_application_may_abort_from_any_call(echo: Echo, connect: Connect, moment: str) -> None:
    echo.on[moment] = WebSocketConnection.abort
    peer = await connect()
    await peer.send(upgrade_head() + text("a") + frame(BINARY, b"b") + text("c") + frame(PING))
    assert (await echo.next("closed"))[1] == 1006
    assert echo.told == [*MOMENTS[: MOMENTS.index(moment) + 1], "closed"]


async def test_a_client_that_vanishes_is_told_once(front: Front, echo: Echo, peer: Peer) -> None:
    peer.vanish()
    assert (await echo.next("closed"))[1] == 1006
    assert echo.told == ["opened", "closed"]
    assert len(front.keepalive) == 0


async def test_a_client_that_hangs_up_without_a_close_frame_is_gone(echo: Echo, peer: Peer) -> None:
    peer.sock.close()
    assert (await echo.next("closed"))[1] == 1006


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x01x", 1002),
        (text(b"\xff"), 1007),
        (b"\x81\xff" + (2**40).to_bytes(8, "big"), 1009),
        (frame(TEXT, b"x" * 100_000, final=False) + frame(CONTINUATION, b"x" * 100_000), 1009),
    ],
    ids=["no mask", "no UTF-8", "2^40 bytes", "two fragments too long"],
)
async def test_a_violation_is_told_although_the_client_sends_on(echo: Echo, peer: Peer, sent: bytes, code: int) -> None:
    sending = asyncio.create_task(peer.send(text("good") + sent + b"x" * 16_000_000))
    assert await peer.frame() == (TEXT, b"good")
    assert await peer.close_code() == code
    await sending
    assert await peer.at_end()
    peer.sock.close()
    assert (await echo.next("closed"))[1] == code


async def test_the_limit_of_a_message_is_a_setting(echo: Echo, start_front: StartFront, connect: Connect) -> None:
    await start_front(PortSettings(websocket=WebSocketSettings(max_message=10)))
    peer = await connect()
    await peer.upgrade()
    await peer.send(text("x" * 10) + text("x" * 11))
    assert await peer.frame() == (TEXT, b"x" * 10)
    assert await peer.close_code() == 1009
