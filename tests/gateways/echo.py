"""The test-only applications behind the real front: a WebSocket echo that tells what happened, and an HTTP echo."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from tocsin.gateways.frames import BINARY, text_frame
from tocsin.gateways.handshake import UpgradeRequest
from tocsin.gateways.websocket import Accepted, WebSocketConnection

Happening = tuple[str, WebSocketConnection, object]


class Echo:
    """Sends back what comes. `door` decides who comes in; what happens then is told, in order."""

    def __init__(self) -> None:
        self.port = 0
        self.door: Callable[[UpgradeRequest], Awaitable[Accepted]] = admit
        self.requests: list[tuple[UpgradeRequest, str]] = []
        self.told: list[str] = []
        self.refused: list[str] = []
        self._happenings: asyncio.Queue[Happening] = asyncio.Queue()
        self.on: dict[str, Callable[[WebSocketConnection], None]] = {}

    async def next(self, what: str) -> tuple[WebSocketConnection, object]:
        """Wait for the next happening of this kind; others before it are passed over."""
        async with asyncio.timeout(10):
            while True:
                happening, connection, detail = await self._happenings.get()
                if happening == what:
                    return connection, detail

    def _tell(self, what: str, connection: WebSocketConnection, detail: object = None) -> None:
        self.told.append(what)
        self._happenings.put_nowait((what, connection, detail))
        if what in self.on:
            self.on[what](connection)

    async def authorize(self, request: UpgradeRequest, peer: str) -> Accepted:
        self.requests.append((request, peer))
        return await self.door(request)

    def opened(self, connection: WebSocketConnection) -> None:
        self._tell("opened", connection)

    def received(self, connection: WebSocketConnection, texts: list[bytes]) -> None:
        self._tell("received", connection, texts)
        connection.write(b"".join([text_frame(text) for text in texts]))

    def received_binary(self, connection: WebSocketConnection, payload: bytes) -> None:
        self._tell("received_binary", connection, payload)
        frame = text_frame(payload)
        connection.write(bytes((frame[0] - 1 + BINARY,)) + frame[1:])

    def stalled(self, connection: WebSocketConnection) -> None:
        self._tell("stalled", connection)

    def writable(self, connection: WebSocketConnection) -> None:
        self._tell("writable", connection)

    def closed(self, connection: WebSocketConnection, code: int) -> None:
        self._tell("closed", connection, code)


async def admit(request: UpgradeRequest) -> Accepted:
    return Accepted(client=None)


async def echo_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers every request 200 with its own body, and says who asked for what."""
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    client = scope["client"][0] if scope["client"] else ""
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"x-method", scope["method"].encode()),
        (b"x-path", scope["raw_path"]),
        (b"x-client", client.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float, sweep: Callable[[float], None]) -> None:
        """Let time go by in quarters of a second, each of them swept."""
        for _ in range(round(seconds * 4)):
            self.now += 0.25
            sweep(self.now)


def count_ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"request-{next(numbers)}"


async def eventually(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; it must within 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)
