"""Both doors of a deployed stage, as a client uses them: one request, one frame.

Deployed, a token -> Rest, listen -> what came back
"""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.deploy.people import SECONDS
from tests.deploy.stage import Deployed

T = TypeVar("T")


class Rest:
    """The REST door, with a token. A call gives status and body."""

    def __init__(self, deployed: Deployed, token: str) -> None:
        self._url: Final = deployed.rest_url
        self._headers: Final = {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        answer = httpx.request(method, f"{self._url}{path}", json=body, headers=self._headers, timeout=SECONDS)
        return answer.status_code, answer.json() if answer.content else None

    def grant(self, user_id: str, chat: str, role: str = "member") -> None:
        status, answer = self("POST", "/permissions", {"userId": user_id, "chatId": chat, "role": role})
        assert status == 200, answer

    def publish(self, chat: str, content: object, **more: object) -> Any:
        """The answer to what was accepted."""
        status, answer = self("POST", "/publish", fifo(chat, content) | more)
        assert status == 202, answer
        return answer

    def numbered(self, chat: str, count: int) -> list[Any]:
        """The chat's numbered messages, page by page, once there are so many."""
        found: list[Any] = []
        key = ""
        while True:
            page = self("GET", f"/messages?chatId={chat}&fromSequence=1&limit=5{key}")[1]
            found += page["messages"]
            if page["nextStartKey"] is None:
                return found if len(found) == count else []
            key = f"&startKey={page['nextStartKey']}"

    def stored(self, chat: str, count: int) -> list[Any]:
        """All that is in history, the oldest first, once there is so much."""
        page: list[Any] = self("GET", f"/messages?chatId={chat}&order=asc")[1]["messages"]
        return page if len(page) >= count else []


def eventually(look: Callable[[], T], seconds: float = SECONDS) -> T:
    """What it sees, as soon as it sees something. (An emulator tells nobody when it is done.)"""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s"
        time.sleep(0.1)
    return seen


def fifo(chat: str, content: object) -> dict[str, object]:
    return {"messageType": "fifo", "payload": {"chatId": chat, "eventType": "chat", "content": content}}


class Listener:
    """One WebSocket. Frames that a wait passes over are kept for the next."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket: Final = socket
        self._kept: list[Any] = []

    async def say(self, **frame: object) -> None:
        await self.socket.send(json.dumps(frame))

    async def hear(self, kind: str) -> Any:
        """The next frame of that type."""
        for index, frame in enumerate(self._kept):
            if frame["type"] == kind:
                return self._kept.pop(index)
        while True:
            frame = json.loads(await self.socket.recv())
            if frame.get("type") == kind:
                return frame
            self._kept.append(frame)

    def kept(self, kind: str) -> list[Any]:
        """Frames of that type that came, and that nothing waited for."""
        return [frame for frame in self._kept if frame["type"] == kind]

    async def sync(self, chat: str, after: int | None = None) -> Any:
        """The first frame of a client."""
        await self.say(action="sync", chats={chat: after})
        return await self.hear("subscribed")

    async def hear_up_to(self, number: int) -> list[int]:
        """The numbers of the messages, until that one."""
        numbers: list[int] = []
        while not numbers or max(numbers) < number:
            numbers.append((await self.hear("message"))["sequenceNumber"])
        return numbers


@asynccontextmanager
async def listen(deployed: Deployed, **query: str) -> AsyncIterator[Listener]:
    """`query` has a token or a ticket, and a chat."""
    async with connect(f"{deployed.websocket_url}?{urlencode(query)}", open_timeout=SECONDS) as socket:
        yield Listener(socket)
