"""The front over real sockets: what goes where, what is cut, who is counted, how it ends."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from tests.gateways.conftest import Connect, StartFront
from tests.gateways.doors import NO_TLS
from tests.gateways.echo import Echo, Time, count_ids, echo_body, eventually
from tests.gateways.peer import close, text, upgrade_head
from tocsin.errors import Refusal
from tocsin.gateways.addresses import Addresses
from tocsin.gateways.frames import TEXT
from tocsin.gateways.front import Front
from tocsin.gateways.handshake import UpgradeRequest
from tocsin.gateways.http_connection import MAX_PIPELINED
from tocsin.gateways.keepalive import WebSocketSettings
from tocsin.gateways.port import PortSettings
from tocsin.gateways.websocket import Accepted

POST = b"POST /dvl/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
GET = b"GET /dvl/messages HTTP/1.1\r\nHost: localhost\r\n\r\n"


def code(body: bytes) -> object:
    return msgspec.json.decode(body)["code"]


# What goes where


async def test_one_port_serves_upgrades_and_requests(front: Front, echo: Echo, connect: Connect) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{echo.port}", verify=NO_TLS) as client:
        response = await client.post("/dvl/publish", content=b"hello")
        assert (response.status_code, response.content) == (200, b"hello")
        assert "date" not in response.headers
        assert "server" not in response.headers
    assert (await (await connect()).upgrade()).status == 101


@pytest.mark.parametrize(
    "head",
    [
        upgrade_head("/"),
        upgrade_head("/dvl/"),
        upgrade_head("/dvlx"),
        upgrade_head().replace(b"13", b"8"),
        upgrade_head().replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        b"GET /dvl HTTP/1.0\r\n\r\n",
    ],
    ids=["root", "slash", "longer", "version", "h2c", "1.0"],
)
async def test_what_is_not_an_ordinary_upgrade_of_the_base_path_is_a_request(
    front: Front, echo: Echo, connect: Connect, head: bytes
) -> None:
    peer = await connect()
    await peer.send(head)
    response = await peer.response()
    assert (response.status, response.headers["x-path"].encode()) == (200, head.split()[1])
    assert echo.requests == []


async def test_requests_go_on_after_an_upgrade_that_was_not_made(front: Front, connect: Connect) -> None:
    peer = await connect()
    await peer.send(upgrade_head("/other") + POST + b"first" + GET)
    assert [(await peer.response()).body for _ in range(3)] == [b"", b"first", b""]
    await peer.send(POST + b"again")
    assert (await peer.response()).body == b"again"


@pytest.mark.parametrize("first", [GET, upgrade_head("/other"), upgrade_head().replace(b"13", b"8")])
async def test_a_connection_that_was_kept_after_an_answer_can_be_upgraded(
    front: Front, echo: Echo, connect: Connect, first: bytes
) -> None:
    """A proxy keeps its connections: one client's odd upgrade must not spoil another's."""
    peer = await connect()
    await peer.send(first)
    assert (await peer.response()).status == 200
    assert (await peer.upgrade("/dvl?a=b")).status == 101
    await peer.send(text("hello"))
    assert await peer.frame() == (TEXT, b"hello")
    assert len(front.uvicorn.connections) == 0
    peer.vanish()
    await echo.next("closed")
    assert not front.addresses._counts


async def test_an_upgrade_behind_a_request_that_is_not_answered_is_a_request(
    held: tuple[Front, asyncio.Event], echo: Echo, connect: Connect
) -> None:
    _, may_answer = held
    peer = await connect()
    await peer.send(GET)
    await eventually(lambda: len(held[0].uvicorn.tasks) == 1)
    await peer.send(upgrade_head())
    may_answer.set()
    assert [(await peer.response()).headers["x-path"] for _ in range(2)] == ["/dvl/messages", "/dvl"]
    assert echo.requests == []


async def test_frames_behind_an_upgrade_that_was_not_made_are_not_answered(front: Front, connect: Connect) -> None:
    peer = await connect()
    await peer.send(upgrade_head("/other") + text("hello"))
    response = await peer.response()
    assert (response.status, response.headers["connection"]) == (200, "close")
    assert await peer.at_end()


async def test_a_request_that_comes_byte_by_byte_is_whole(front: Front, connect: Connect) -> None:
    peer = await connect()
    for request, answer in ((POST + b"hello", (200, b"hello")), (upgrade_head(), (101, b""))):
        for byte in request:
            await peer.send(bytes((byte,)))
        response = await peer.response()
        assert (response.status, response.body) == answer


PIECES = [
    POST + b"hello",
    POST.replace(b"POST", b"BREW") + b"hello",
    POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    GET,
    GET.replace(b"GET", b"PRI"),
    GET.replace(b"1.1", b"1.0"),
    upgrade_head(),
    upgrade_head("/other"),
    upgrade_head().replace(b"13", b"8"),
    text("hello"),
    b"\r\n",
    b"G",
    b"PO",
    b"\x16\x03",
]


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_in_whatever_pieces_raises_nothing_and_is_forgotten_with_its_connection(
    front: Front, connect: Connect, seed: int
) -> None:
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    random = Random(seed)
    for _ in range(60):
        peer = await connect()
        stream = b"".join(random.choices(PIECES, k=random.randint(1, 6)))
        with contextlib.suppress(OSError):  # hung up, as it may be
            while stream:
                size = random.choice((1, 20, 1_000))
                await peer.send(stream[:size])
                stream = stream[size:]
                await asyncio.sleep(0)
        peer.vanish()
    await eventually(lambda: not front.addresses._counts)
    assert (len(front.arrivals), len(front.uvicorn.connections), len(front.keepalive)) == (0, 0, 0)
    assert raised == []


@pytest.fixture
async def admin() -> AsyncIterator[Front]:
    """A front without a WebSocket side, not yet started."""
    front = Front(echo_body, new_id=count_ids())
    yield front
    await front.stop(1)


async def test_without_a_websocket_side_an_upgrade_is_a_request(admin: Front, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    await admin.start_unix(path)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path), verify=NO_TLS)) as client:
        headers = dict(line.split(": ") for line in upgrade_head().decode().split("\r\n")[1:-2])
        response = await client.get("http://admin/dvl", headers=headers)
        assert (response.status_code, response.headers["x-path"]) == (200, "/dvl")


async def test_only_its_owner_can_open_the_unix_socket_and_a_dead_one_is_replaced(admin: Front, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await admin.start_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await admin.stop(1)
    assert not path.exists()


# What is cut


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /dvl", b"POST /dvl/publish HTTP/1.1\r\nHost:", b"\r\n"])
async def test_a_head_that_is_not_whole_after_10_seconds_is_answered_408(
    front: Front, time: Time, connect: Connect, sent: bytes
) -> None:
    peer = await connect()
    await peer.send(sent)
    await eventually(lambda: len(front.arrivals) + len(front.uvicorn.connections) == 1)
    await peer.send(b"")
    time.pass_by(11.5, front.sweep)
    response = await peer.response()
    assert (response.status, code(response.body)) == (408, "bad_request")
    assert await peer.at_end()


@pytest.mark.parametrize("sent", [b"", upgrade_head()[:-2], POST[:-2], POST + b"hell"])
async def test_what_is_not_whole_is_cut_within_10_seconds_and_not_long_before(
    front: Front, echo: Echo, time: Time, connect: Connect, sent: bytes
) -> None:
    peer = await connect()
    await peer.send(sent)
    await eventually(lambda: len(front.uvicorn.connections if sent.startswith(b"POST") else front.arrivals) == 1)
    time.pass_by(9, front.sweep)
    assert echo.refused == []
    time.pass_by(1, front.sweep)
    assert (await peer.response()).status == 408


async def test_a_head_that_dribbles_is_cut_by_the_clock_itself(start_front: StartFront, connect: Connect) -> None:
    settings = PortSettings(request_timeout=0.2)
    await start_front(settings, asyncio.get_running_loop().time)
    peer = await connect()
    await peer.send(b"GET /dvl HTTP/1.1\r\n")
    assert (await peer.response()).status == 408


async def test_a_body_that_is_not_whole_after_10_seconds_is_answered_408(
    front: Front, time: Time, connect: Connect
) -> None:
    peer = await connect()
    await peer.send(POST + b"hell")
    await eventually(lambda: bool(front.uvicorn.connections))
    time.pass_by(11.5, front.sweep)
    response = await peer.response()
    assert (response.status, code(response.body)) == (408, "bad_request")
    assert await peer.at_end()
    await eventually(lambda: not front.uvicorn.tasks)


async def test_a_request_that_may_have_been_done_is_cut_without_a_word(
    front: Front, time: Time, connect: Connect
) -> None:
    peer = await connect()
    await peer.send(POST.replace(b"POST", b"DELETE") + b"hell")
    await eventually(lambda: bool(front.uvicorn.connections))
    time.pass_by(11.5, front.sweep)
    assert await peer.at_end()


async def test_an_empty_line_behind_a_request_does_not_keep_a_connection_for_ever(
    front: Front, time: Time, connect: Connect
) -> None:
    peer = await connect()
    await peer.send(GET)
    assert (await peer.response()).status == 200
    (connection,) = front.http_connections()
    await peer.send(b"\r\n")
    await eventually(lambda: connection.timeout_keep_alive_task is None)
    time.pass_by(11.5, front.sweep)
    assert (await peer.response()).status == 408
    assert await peer.at_end()


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_head_over_64_kib_is_answered_431(front: Front, connect: Connect, method: bytes, whole: bool) -> None:
    peer = await connect()
    head = method + b" /dvl HTTP/1.1\r\nA: " + b"x" * 65_536
    sending = asyncio.create_task(peer.send(head + (b"\r\n\r\n" if whole else b"x" * 400_000)))
    response = await peer.response()
    assert (response.status, code(response.body)) == (431, "bad_request")
    sending.cancel()


async def test_a_head_of_64_kib_is_read(front: Front, connect: Connect) -> None:
    peer = await connect()
    head = upgrade_head()
    extra = "X: " + "x" * (65_536 - len(head) - 5) + "\r\n"
    assert (await peer.upgrade(extra=extra)).status == 101
    other = await connect()
    assert (await other.upgrade("/other", extra.replace("xx", "", 1))).status == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"hello\r\n",
        b"hello, world",
        b"no HTTP at all",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"BREW  /dvl HTTP/1.1\r\n",
        b"BREW /dvl HTTP/1.1\n",
        b"BREW " + b"x" * 8_192,
        b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /dvl\r\n\r\n",
        b"GET / HTTP/1.1\r\nA B: 1\r\n\r\n",
    ],
    ids=lambda garbage: garbage[:20],
)
async def test_what_is_no_http_is_answered_400_at_once(front: Front, connect: Connect, garbage: bytes) -> None:
    peer = await connect()
    await peer.send(garbage)
    response = await peer.response()
    assert (response.status, code(response.body)) == (400, "bad_request")
    assert response.headers["x-request-id"] == "request-1"
    assert await peer.at_end()


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/3.0", b"HTTP/1.11", b"http/1.1"])
@pytest.mark.parametrize("request_", [GET, POST + b"hello", upgrade_head()], ids=["GET", "POST", "upgrade"])
async def test_another_version_of_http_is_refused(
    front: Front, connect: Connect, version: bytes, request_: bytes
) -> None:
    peer = await connect()
    await peer.send(request_.replace(b"HTTP/1.1", version))
    response = await peer.response()
    assert (response.status, code(response.body)) == (400, "bad_request")
    assert b"HTTP/1.1" in response.body
    assert await peer.at_end()


async def test_http_1_0_is_answered_and_closed_after_it(front: Front, connect: Connect) -> None:
    for request, body in (
        (b"GET /dvl/messages HTTP/1.0\r\n\r\n", b""),
        (POST.replace(b"/1.1", b"/1.0") + b"hello", b"hello"),
    ):
        peer = await connect()
        await peer.send(request)
        response = await peer.response()
        assert (response.status, response.body, response.headers["connection"]) == (200, body, "close")
        assert await peer.at_end()


@pytest.mark.parametrize(
    "method", [b"BREW", b"get", b"PUT", b"PATCH", b"PROPFIND", b"PLAY", b"SOURCE", b"CONNECT", b"PRI", b"x!~"]
)
@pytest.mark.parametrize("step", [1, 1_000], ids=["byte by byte", "at once"])
async def test_a_method_that_is_not_served_reaches_the_application_by_its_name(
    front: Front, connect: Connect, method: bytes, step: int
) -> None:
    peer = await connect()
    for request in (POST, POST.replace(b"POST", method), upgrade_head("/other"), POST.replace(b"POST", method), POST):
        whole = request + b"hello" if b"Content-Length" in request else request
        for start in range(0, len(whole), step):
            await peer.send(whole[start : start + step])
        response = await peer.response()
        assert response.status == 200
        assert response.headers["x-method"].encode() == request.split()[0]
        assert response.body == whole[len(request) :]


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"], ids=["none", "two"])
@pytest.mark.parametrize("head", [GET, upgrade_head()], ids=["request", "upgrade"])
async def test_a_request_that_does_not_say_for_which_host_it_is_is_answered_400(
    front: Front, connect: Connect, head: bytes, hosts: bytes
) -> None:
    peer = await connect()
    await peer.send(head.replace(b"Host: localhost\r\n", hosts))
    response = await peer.response()
    assert (response.status, code(response.body)) == (400, "bad_request")
    assert await peer.at_end()


@pytest.fixture
async def held(start_front: StartFront) -> AsyncIterator[tuple[Front, asyncio.Event]]:
    """A front whose HTTP application answers only when it may."""
    may_answer = asyncio.Event()

    async def hold(scope: Scope, receive: Receive, send: Send) -> None:
        await may_answer.wait()
        await echo_body(scope, receive, send)

    yield await start_front(http=hold), may_answer
    may_answer.set()


async def test_garbage_behind_a_request_does_not_deny_what_the_request_did(
    held: tuple[Front, asyncio.Event], connect: Connect
) -> None:
    _, may_answer = held
    peer = await connect()
    await peer.send(POST + b"hello, and more than was announced\r\n\r\n")
    may_answer.set()
    response = await peer.response()
    assert (response.status, response.body, response.headers["connection"]) == (200, b"hello", "close")
    assert await peer.at_end()


async def test_requests_far_ahead_of_their_answers_are_not_taken(
    held: tuple[Front, asyncio.Event], connect: Connect
) -> None:
    _, may_answer = held
    peer = await connect()
    await peer.send(GET * 1_000)
    may_answer.set()
    answers = [await peer.response() for _ in range(MAX_PIPELINED + 1)]
    assert [answer.status for answer in answers] == [200] * (MAX_PIPELINED + 1)
    assert answers[-1].headers["connection"] == "close"
    assert await peer.at_end()


@pytest.mark.parametrize("method", [b"POST", b"BREW"])
async def test_who_takes_no_answer_gets_no_more_of_them(front: Front, connect: Connect, method: bytes) -> None:
    peer = await connect(receive_buffer=4_096)
    request = POST.replace(b"POST", method).replace(b"5", b"50000") + b"x" * 50_000

    def is_stuck() -> bool:
        (connection,) = front.http_connections()
        waits = connection.flow.write_paused and connection.cycle is not None and not connection.cycle.response_complete
        return waits or connection.transport.is_closing()

    for count in range(200):
        await peer.send(request)
        await eventually(lambda: front.uvicorn.total_requests > count or is_stuck())  # noqa: B023 - asked at once
        if is_stuck():
            break
    assert is_stuck()
    assert front.http_connections()[0].transport.get_write_buffer_size() < 1_000_000


async def test_a_body_that_the_application_does_not_read_is_not_called_slow(
    held: tuple[Front, asyncio.Event], time: Time, connect: Connect
) -> None:
    front, may_answer = held
    peer = await connect()
    size = 16_000_000
    await peer.send(POST.replace(b"5", b"%d" % size))
    sending = asyncio.create_task(peer.send(b"x" * size))
    await eventually(lambda: any(http.flow.read_paused for http in front.http_connections()))
    time.pass_by(25, front.sweep)
    may_answer.set()
    assert len((await peer.response()).body) == size
    await sending


async def test_a_client_that_takes_no_answer_is_cut_after_30_seconds(
    start_front: StartFront, time: Time, connect: Connect
) -> None:
    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while front.uvicorn.connections:
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    front = await start_front(http=pour)
    peer = await connect(receive_buffer=4_096)
    await peer.send(GET)
    await eventually(lambda: any(http.flow.write_paused for http in front.http_connections()))
    time.pass_by(29, front.sweep)
    assert front.uvicorn.connections
    time.pass_by(3, front.sweep)
    await eventually(lambda: not front.uvicorn.connections and not front.uvicorn.tasks)


async def test_where_answers_that_nobody_takes_have_no_more_room_who_waited_longest_is_cut(
    start_front: StartFront, connect: Connect
) -> None:
    size = 8_000_000

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    front = await start_front(PortSettings(unread=20_000_000), http=answer)

    def waiting() -> int:
        return sum(http.flow.write_paused for http in front.http_connections())

    peers = [await connect(receive_buffer=4_096) for _ in range(3)]
    for number, peer in enumerate(peers, 1):
        await peer.send(GET)
        await eventually(lambda number=number: waiting() == min(number, 2))  # type: ignore[misc]
    longest, *others = peers
    for peer in others:
        assert len((await peer.response()).body) == size
    taken = 0
    with contextlib.suppress(ConnectionResetError):
        while more := await longest.read():
            taken += len(more)
    assert taken < size


async def test_where_large_bodies_under_way_have_no_more_room_the_longest_gives_way(
    start_front: StartFront, connect: Connect
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

    await start_front(PortSettings(bodies=20_000_000), http=answer)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n"
    longest, *others = [await connect() for _ in range(3)]
    for peer in (longest, *others):
        await peer.send(head + b"x" * 8_000_000)
    answered = await longest.response()
    assert answered.status == 503
    assert b'"unavailable"' in answered.body
    assert await longest.at_end()
    for peer in others:
        await peer.send(b"x" * 1_000_000)
        assert (await peer.response()).status == 200


async def test_who_asks_ahead_and_leaves_without_reading_is_no_defect(
    start_front: StartFront, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"400000")]})
        await send({"type": "http.response.body", "body": b"x" * 400_000})

    front = await start_front(http=answer)
    peer = await connect(receive_buffer=4_096)
    await peer.send(GET * 8)
    await eventually(lambda: any(http.flow.write_paused for http in front.http_connections()))
    peer.vanish()
    await eventually(lambda: not front.uvicorn.connections and not front.uvicorn.tasks)
    assert caplog.records == []


async def test_an_idle_connection_is_closed(start_front: StartFront, connect: Connect) -> None:
    await start_front(PortSettings(idle_timeout=0.1))
    peer = await connect()
    await peer.send(GET)
    assert (await peer.response()).status == 200
    assert await peer.at_end()


async def test_each_refusal_that_is_answered_here_is_told_once_by_code(
    start_front: StartFront, echo: Echo, time: Time, connect: Connect
) -> None:
    async def door(request: UpgradeRequest) -> Accepted:
        raise Refusal("unauthorized", "Who are you?")

    echo.door = door
    front = await start_front(PortSettings(connections_per_address=2))
    for sent, status in (
        (b"hello\r\n", 400),
        (b"GET /dvl HTTP/1.1\r\nA: " + b"x" * 65_536, 431),
        (POST[:-2] + b"A: " + b"x" * 65_536 + b"\r\n\r\n", 431),
        (upgrade_head(), 401),
    ):
        peer = await connect()
        await peer.send(sent)
        assert (await peer.response()).status == status
        assert await peer.at_end()
        peer.vanish()
    assert echo.refused == ["bad_request", "bad_request", "bad_request", "unauthorized"]

    slow, slower, third, fourth = [await connect() for _ in range(4)]
    await slow.send(b"GET /dvl")
    await slower.send(POST + b"hell")
    await third.send(GET)
    assert (await third.response()).status == 429
    assert (await fourth.upgrade()).status == 429
    await eventually(lambda: (len(front.arrivals), len(front.uvicorn.connections)) == (1, 1))
    time.pass_by(11.5, front.sweep)
    assert [(await each.response()).status for each in (slow, slower)] == [408, 408]
    assert echo.refused[4:] == ["rate_limited", "rate_limited", "bad_request", "bad_request"]


# Who is counted


async def test_an_address_has_so_many_connections_and_no_more(start_front: StartFront, connect: Connect) -> None:
    front = await start_front(PortSettings(connections_per_address=2))
    first, second, third, fourth, fifth = [await connect() for _ in range(5)]
    assert (await first.upgrade()).status == 101
    await second.send(GET)
    assert (await second.response()).status == 200
    response = await third.upgrade(extra="X-Request-Id: mine\r\n")
    assert (response.status, code(response.body), response.headers["retry-after"]) == (429, "rate_limited", "1")
    assert response.headers["x-request-id"] == "mine"
    await fourth.send(GET.replace(b"Host", b"X-Request-Id: mine\r\nHost"))
    response = await fourth.response()
    assert (response.status, response.headers["x-request-id"]) == (429, "mine")
    assert await fifth.at_end()
    first.vanish()
    second.vanish()
    await eventually(lambda: front.addresses.count("127.0.0.1") == 0)
    assert (await (await connect()).upgrade()).status == 101


async def test_connections_do_not_take_the_last_file(start_front: StartFront, connect: Connect) -> None:
    await start_front(PortSettings(connections=1))
    first, second = await connect(), await connect()
    assert (await first.upgrade()).status == 101
    assert await second.at_end()


async def test_behind_a_trusted_proxy_the_client_is_who_it_says(
    start_front: StartFront, echo: Echo, connect: Connect
) -> None:
    settings = PortSettings(trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"), connections_per_address=1)
    front = await start_front(settings)
    forwarded = "X-Forwarded-For: 198.51.100.1, 192.0.2.7\r\nX-Forwarded-For: 10.1.2.3\r\n"
    peer = await connect()
    assert (await peer.upgrade(extra=forwarded)).status == 101
    assert echo.requests[0][1] == "192.0.2.7"
    assert (await (await connect()).upgrade(extra=forwarded)).status == 429
    others = [await connect() for _ in range(3)]  # a proxy's own connections have no limit
    for other in others:
        await other.send(GET.replace(b"Host", forwarded.encode() + b"Host"))
        assert (await other.response()).headers["x-client"] == "192.0.2.7"
    for gone in (peer, *others):
        gone.vanish()
    await eventually(lambda: not front.addresses._counts)


async def test_an_ipv6_stranger_has_a_network_of_64_bits(start_front: StartFront, echo: Echo, connect: Connect) -> None:
    front = await start_front(PortSettings(connections_per_address=2, trusted_proxies=("127.0.0.1",)))
    peers = []
    for address, status in (
        ("2001:db8::1", 101),
        ("2001:db8::ffff:0:0:2", 101),
        ("2001:db8:0:0:3::", 429),
        ("2001:db8:0:1::1", 101),
        ("2001:db8::1", 429),
    ):
        peers.append(await connect())
        assert (await peers[-1].upgrade(extra=f"X-Forwarded-For: {address}\r\n")).status == status, address
    assert [peer for _, peer in echo.requests] == ["2001:db8::1", "2001:db8::ffff:0:0:2", "2001:db8:0:1::1"]
    for gone in peers:
        gone.vanish()
    await eventually(lambda: not front.addresses._counts)


async def test_a_stranger_cannot_say_who_it_is(front: Front, echo: Echo, connect: Connect) -> None:
    await (await connect()).upgrade(extra="X-Forwarded-For: 192.0.2.7\r\n")
    assert echo.requests[0][1] == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "forwarded", "peer"),
    [
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.1", "10.0.0.2 , 10.0.0.3"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1:8080"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:DB8::1]:8080"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("fd00::1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
    ],
)
def test_the_peer_is_the_right_most_address_that_is_no_proxy(address: str, forwarded: list[str], peer: str) -> None:
    assert Addresses(["10.0.0.0/8", "fd00::/8"]).peer(address, forwarded) == peer


@given(st.lists(st.text()))
def test_a_forwarded_for_of_anything_raises_nothing_and_gives_an_address(forwarded: list[str]) -> None:
    assert len(Addresses(["10.0.0.0/8"]).peer("10.0.0.1", forwarded)) <= 100


# The end


async def test_a_stop_lets_requests_finish_and_sends_websockets_away(
    held: tuple[Front, asyncio.Event], echo: Echo, connect: Connect
) -> None:
    front, may_answer = held
    busy, idle, arriving, *clients = [await connect() for _ in range(7)]
    for client in clients:
        await client.upgrade()
    await busy.send(POST + b"hello")
    await arriving.send(b"GET /dvl")
    await eventually(lambda: len(front.uvicorn.tasks) == 1)
    stopping = asyncio.create_task(front.stop(10, retry_within=4))
    delays = []
    for client in clients:
        _, payload = await client.frame()
        assert payload[:2] == (1012).to_bytes(2, "big")
        delays.append(int(payload[2:].removeprefix(b"retryAfter=")))
        await client.send(close(1012))
        assert await client.at_end()
    assert sorted(delays) == [0, 1_000, 2_000, 3_000]
    assert await idle.at_end()
    assert await arriving.at_end()
    assert not stopping.done()
    may_answer.set()
    response = await busy.response()
    assert (response.body, response.headers["connection"]) == (b"hello", "close")
    await stopping
    with pytest.raises(ConnectionRefusedError):
        await connect()
    assert [(await echo.next("closed"))[1] for _ in clients] == [1012] * 4


async def test_a_stop_cuts_what_is_left_at_its_deadline(
    held: tuple[Front, asyncio.Event], echo: Echo, connect: Connect
) -> None:
    front, _ = held

    async def door(request: UpgradeRequest) -> Accepted:
        if not request.query:
            return Accepted(client=None)
        await asyncio.Event().wait()
        raise AssertionError

    echo.door = door
    busy, silent, entering = [await connect() for _ in range(3)]
    await silent.upgrade()
    await busy.send(POST + b"hello")
    await entering.send(upgrade_head("/dvl?a"))
    await eventually(lambda: len(front.uvicorn.tasks) == 1 and len(front.keepalive.opening()) == 1)
    await front.stop(0.1)
    response = await entering.response()
    assert (response.status, code(response.body)) == (503, "unavailable")
    assert await silent.close_code() == 1012
    assert await silent.at_end()
    assert await busy.at_end()
    await eventually(lambda: not front.uvicorn.tasks)
    assert (await echo.next("closed"))[1] == 1012


async def test_a_port_that_is_taken_is_an_error(front: Front, echo: Echo, admin: Front) -> None:
    with pytest.raises(OSError, match="in use"):
        await admin.start("127.0.0.1", echo.port)


async def test_a_name_may_have_an_address_that_this_machine_does_not_have(admin: Front) -> None:
    with pytest.raises(OSError, match="assign"):
        await admin.start("192.0.2.1", 0)
    assert await admin.start("localhost", 0)


async def test_the_sockets_buffer_is_small_enough_for_a_slow_reader_to_show(
    start_front: StartFront, echo: Echo, connect: Connect
) -> None:
    await start_front(PortSettings(send_buffer=65_536, websocket=WebSocketSettings(max_message=10)))
    peer = await connect()
    await peer.upgrade()
    connection, _ = await echo.next("opened")
    sock = connection._transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 65_536  # the kernel doubles what it is told
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await peer.send(text("hello"))
    assert await peer.frame() == (TEXT, b"hello")
