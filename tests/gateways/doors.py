"""An embedded service with all its doors open: REST and WebSocket on a port, ops and admin as applications.

Real parts throughout: the engine on its folder, the front on a socket. What a test needs beyond REST it takes from
`engine` and `service`.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final, cast

import httpx
import msgspec

from tests.gateways.contract import Contract
from tests.gateways.peer import Peer
from tocsin.clock import Clock, SystemClock
from tocsin.engines.embedded.engine import EmbeddedEngine, EmbeddedSettings
from tocsin.engines.file_keys import RULES, FileKeys
from tocsin.failpoints import Failpoints
from tocsin.gateways.admin import AdminApi
from tocsin.gateways.conversation import Conversations
from tocsin.gateways.cursors import Cursors
from tocsin.gateways.frames import text_frame
from tocsin.gateways.front import Front
from tocsin.gateways.http import HttpApi
from tocsin.gateways.ops import OpsApi
from tocsin.identity import SCOPES, Keys, TokenCheck
from tocsin.service import Service

HOST: Final = "127.0.0.1"
#: The user whose token has every scope.
BACK_END: Final = "back-end"
ORIGIN: Final = "https://app.example.com"
#: For clients of plain HTTP: to read the system's certificates takes longer than to open a service.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
Json = dict[str, object]


def body_of(response: httpx.Response) -> Json:
    return cast(Json, msgspec.json.decode(response.content))


def problem_of(response: httpx.Response) -> tuple[int, object, object]:
    """Status, code and field of a refusal, whose form is checked."""
    body = body_of(response)
    assert set(body) <= {"message", "code", "requestId", "field"}
    assert body["message"]
    assert body["requestId"] == response.headers["x-request-id"]
    return response.status_code, body["code"], body.get("field")


class Doors:
    def __init__(self, engine: EmbeddedEngine, service: Service, keys: FileKeys) -> None:
        self.engine: Final = engine
        self.service: Final = service
        self.keys: Final = keys
        self.not_ready: Final[list[str]] = []
        numbers = count(1)

        def new_id() -> str:
            return f"id-{next(numbers)}"

        self.api: Final = HttpApi(
            service,
            base_path="/dvl",
            cursors=Cursors(keys.cursor_secret),
            allowed_origins=frozenset({ORIGIN}),
            new_id=new_id,
        )
        self.front: Final = Front(
            self.api,
            Conversations(service, engine.hub, new_id=new_id),
            new_id=new_id,
            refused=lambda code: engine.metrics.count("refusals", label=code),
        )
        self.admin: Final = AdminApi(service, self.api, url=f"http://{HOST}/dvl", new_id=new_id)
        self.ops: Final = OpsApi(
            engine.protocols, ready=lambda: self.not_ready, expose=engine.metrics.expose, new_id=new_id
        )
        self.port = 0
        self.contract: Final = Contract()
        self.http: Final = httpx.AsyncClient(trust_env=False, timeout=15, verify=NO_TLS)
        self._peers: Final[list[Peer]] = []

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/dvl"

    def token(self, user: str, *scopes: str, ago: int = 0) -> str:
        """Good for an hour, from `ago` seconds in the past on."""
        return self.keys.mint(user, scopes, 3600, self.engine.protocols.clock.now() - ago * 1000)

    def headers(self, user: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(user, *(SCOPES if user == BACK_END else ()))}"}

    async def connect(self) -> Peer:
        """A raw client of the port."""
        self._peers.append(await Peer.connect(self.port))
        return self._peers[-1]

    async def leave(self) -> None:
        """All clients go."""
        for peer in self._peers:
            peer.vanish()
        await self.http.aclose()

    async def ask(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        user: str | None = BACK_END,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """`body` is sent as it is if it is bytes, else as JSON; `target` is sent as it is.

        Every answer is held against the OpenAPI document.
        """
        content = body if isinstance(body, bytes) else None if body is None else msgspec.json.encode(body)
        given = self.headers(user) if user is not None else {}
        sent = {**given, **(headers or {})}
        response = await self.http.request(method, self.url + target, content=content, headers=sent)
        self.contract.judge(method, response)
        return response

    async def publish(self, chat: str, content: object = "x", *, user: str = BACK_END, **more: object) -> Json:
        """A fifo message; what the 202 says."""
        payload = {"chatId": chat, "eventType": "chat", "content": content}
        response = await self.ask("POST", "/publish", {"messageType": "fifo", "payload": payload} | more, user=user)
        assert response.status_code == 202, response.text
        return body_of(response)

    async def grant(self, user: str, chat: str, role: str) -> None:
        response = await self.ask("POST", "/permissions", {"userId": user, "chatId": chat, "role": role})
        assert response.status_code == 200, response.text


class Hasty(SystemClock):
    """A clock on which pauses last a fiftieth."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 50)


@asynccontextmanager
async def opened(
    data: Path,
    keys: FileKeys,
    *,
    failpoints: str = "",
    rate: float = 100,
    burst: float = 500,
    clock: Clock | None = None,
) -> AsyncIterator[Doors]:
    engine = EmbeddedEngine(
        EmbeddedSettings(data=data, publish_rate=rate, publish_burst=burst),
        frame=text_frame,
        clock=clock,
        failpoints=Failpoints(failpoints),
    )
    checked = await Keys.open(keys, lambda _: None, engine.protocols.clock.now())
    service = Service(engine.protocols, TokenCheck(checked, RULES))
    doors = Doors(engine, service, keys)
    doors.port = await doors.front.start(HOST, 0)
    engine.start()
    service.start()
    try:
        yield doors
    finally:
        await doors.leave()
        await doors.front.stop(1)
        await service.stop()
        await engine.stop()
