"""API Gateway's management API for WebSocket connections, as far as an engine uses it: a small server over real HTTP.

    boto3 (apigatewaymanagementapi) -> POST, GET, DELETE /dvl/@connections/{id} -> the test's Client

It can stall (no answer until it is told otherwise) and refuse. A connection that it does not know is gone: 410.
"""

import asyncio
import json
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

from tests.conformance.harness import Client

STAGE: Final = "dvl"
#: status -> its reason and the error's type, as AWS names them.
ERRORS: Final = {
    403: ("Forbidden", "ForbiddenException"),
    410: ("Gone", "GoneException"),
    413: ("Request Entity Too Large", "PayloadTooLargeException"),
    429: ("Too Many Requests", "LimitExceededException"),
    500: ("Internal Server Error", "InternalServerErrorException"),
}
#: What it takes has fewer bytes than 128 KiB.
TOO_LARGE: Final = 128 * 1024


class ManagementApi:
    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}
        self._flowing: dict[str, asyncio.Event] = {}
        self._refused: dict[str, list[int]] = {}
        #: Connections for which it has no time.
        self.busy: set[str] = set()
        self._server: asyncio.Server | None = None
        self._talks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        #: What was asked, in order: method and connection. How many at once, now and at most.
        self.asked: list[tuple[str, str]] = []
        self.in_flight = 0
        self._news = asyncio.Event()
        self.most_in_flight = 0
        #: Connections over HTTP that were opened to it.
        self.opened = 0
        #: What the next error calls itself, in place of its own name.
        self.error_type: str | None = None

    async def start(self) -> str:
        """Its endpoint, as WS_API_ENDPOINT says it."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/{STAGE}"

    async def stop(self) -> None:
        """Connections end with it, as they would not on AWS: a test's clients are of one life of the engine."""
        assert self._server is not None
        self._server.close()
        self._clients.clear()
        for flowing in self._flowing.values():
            flowing.set()
        for writer in self._talks.values():
            writer.close()
        await asyncio.gather(*self._talks)
        await self._server.wait_closed()

    def attach(self, client: Client) -> None:
        """The upgrade has ended: from now on it can be posted to."""
        self._clients[client.connection_id] = client

    def lose(self, connection_id: str) -> None:
        """It has gone without a word."""
        del self._clients[connection_id]

    def stall(self, connection_id: str) -> None:
        self._flowing.setdefault(connection_id, asyncio.Event()).clear()

    def resume(self, connection_id: str) -> None:
        self._flowing.setdefault(connection_id, asyncio.Event()).set()

    def refuse(self, connection_id: str, *statuses: int) -> None:
        """So its next requests are answered, one after another."""
        self._refused.setdefault(connection_id, []).extend(statuses)

    async def until_in_flight(self, number: int) -> None:
        while self.in_flight < number:
            self._news.clear()
            await self._news.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks[task] = writer
        self.opened += 1
        try:
            while head := await _head(reader):
                method, path, length = head
                body = await reader.readexactly(length)
                connection_id = unquote(path.rpartition("/@connections/")[2])
                self.asked.append((method, connection_id))
                self.in_flight += 1
                self.most_in_flight = max(self.in_flight, self.most_in_flight)
                self._news.set()
                try:
                    await asyncio.sleep(0)  # the others that are asked at once are seen, too
                    flowing = self._flowing.get(connection_id)
                    if flowing is not None:
                        await flowing.wait()
                    status, answer = self._answer(method, connection_id, body)
                finally:
                    self.in_flight -= 1
                writer.write(_response(status, answer, self.error_type))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the caller has given up
        finally:
            del self._talks[task]
            writer.close()

    def _answer(self, method: str, connection_id: str, body: bytes) -> tuple[int, bytes]:
        if refused := self._refused.get(connection_id):
            return refused.pop(0), b""
        if connection_id in self.busy:
            return 429, b""
        client = self._clients.get(connection_id)
        if client is None or client.closed is not None:
            return 410, b""
        if method == "POST":
            if len(body) >= TOO_LARGE:
                return 413, b""
            client.write(body)
            return 200, b""
        if method == "DELETE":
            client.close(1000)
            return 204, b""
        moment = datetime.fromtimestamp(0, UTC).isoformat()
        identity = {"sourceIp": "192.0.2.1", "userAgent": "suite/1"}
        return 200, json.dumps({"connectedAt": moment, "lastActiveAt": moment, "identity": identity}).encode()


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, int] | None:
    """Method, path and length of the body; None: there is no further request."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    return method, path, int(headers.get("content-length", "0"))


def _response(status: int, body: bytes, error_type: str | None) -> bytes:
    reason, kind = ERRORS.get(status, ("OK", ""))
    if kind and error_type is not None:
        kind = error_type
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    if kind:
        lines.append(f"x-amzn-ErrorType: {kind}")
    return "\r\n".join([*lines, "", ""]).encode() + body
