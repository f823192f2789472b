"""A reader that does not give up: frames -> `Subscription` records; after a cut it resumes from what it has.

Rules: a connection that is cut, by whomever, is written as `Closed`; one that still stands when the log ends is not.
One chat resumes by the address (`lastSequence`), several by `sync`.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NoReturn
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tests.guarantees.recorder import Frame, Recorder, chat_of, now, open_socket, read_frame
from tests.guarantees.records import (
    Closed,
    Denied,
    Event,
    Gap,
    Heard,
    Left,
    Revoked,
    Subscribed,
    Subscription,
    digest,
)
from tests.guarantees.server import HOST

RECONNECT: Final = 0.03  # seconds
#: Frames that say nothing of a chat.
ASIDE: Final = frozenset({"ack", "pong", "tokenExpiring"})


class Reader:
    """`subscriptions` are those of the present connection, by chat; `have` is what to resume from, by chat.

    Nothing is read while `reading` is not set; with a small `receive_buffer` (bytes) the server soon feels it.
    """

    def __init__(
        self, recorder: Recorder, user: str, chats: Sequence[str], name: str, *, receive_buffer: int | None = None
    ) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.have: dict[str, int] = {}
        self.epoch: str | None = None
        self.reading = asyncio.Event()
        self.reading.set()
        self._receive_buffer = receive_buffer
        self._recorder = recorder
        self._user = user
        self._chats = tuple(chats)
        self._name = name
        self._lives = 0
        self._connection: ClientConnection | None = None

    async def run(self) -> None:
        """Until the upgrade is denied; else without end."""
        while True:
            try:
                if await self._live():
                    return
            except (OSError, EOFError, TimeoutError, WebSocketException):
                pass
            await asyncio.sleep(RECONNECT)

    def drop(self) -> None:
        """Cuts the connection without a word; `run` resumes."""
        if self._connection is not None:
            self._connection.transport.abort()

    def note_end(self, end: Closed) -> None:
        """The connection is gone, and with it what stood on it."""
        for chat, subscription in self.subscriptions.items():
            if subscription.end is None:
                self._write(chat, end)

    def wake(self) -> None:
        """Reads again, and no longer through a keyhole."""
        if self._connection is not None:
            raw: socket.socket = self._connection.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.reading.set()

    @property
    def stands(self) -> bool:
        """Every chat is subscribed on the present connection."""
        return len(self.subscriptions) == len(self._chats) and all(
            each.start is not None and each.end is None for each in self.subscriptions.values()
        )

    async def standing(self) -> None:
        await self._recorder.until(lambda: self.stands, f"`subscribed` for {self._name}", 20)

    @property
    def is_out(self) -> bool:
        """Every chat is revoked or denied; a connection stays to see that nothing follows."""
        ends = [each.end for each in self.subscriptions.values()]
        return bool(ends) and all(isinstance(end, Revoked | Denied) for end in ends)

    async def _live(self) -> bool:
        """True if denied."""
        self._lives += 1
        asked_at = now()
        asked = {
            chat: Subscription(
                connection=f"{self._name} #{self._lives}",
                user=self._user,
                chat=chat,
                asked_at=asked_at,
                last=self.have.get(chat),
                epoch=self.epoch if chat in self.have else None,
            )
            for chat in self._chats
        }
        by_sync = len(asked) > 1 and bool(self.have)
        query = [] if by_sync else [("chatId", chat) for chat in self._chats]
        if self.have and not by_sync:
            query += [("lastSequence", f"{self.have[self._chats[0]]}"), ("epoch", self.epoch or "")]
        try:
            options = await self._options()
            async with open_socket(self._recorder.service, self._user, f"?{urlencode(query)}", **options) as connection:
                self._connection, self.subscriptions = connection, asked
                self._recorder.log.subscriptions += asked.values()
                if by_sync:
                    chats = {chat: self.have.get(chat) for chat in self._chats}
                    await connection.send(json.dumps({"action": "sync", "chats": chats, "epoch": self.epoch}))
                await self._listen(connection)
        except InvalidStatus as refusal:
            if refusal.response.status_code not in {401, 403}:
                raise
            self._recorder.log.subscriptions += asked.values()
            self.subscriptions = asked
            for chat in asked:
                self._write(chat, Denied(at=now(), code=f"{refusal.response.status_code}"))
            return True
        finally:
            self._connection = None

    async def _options(self) -> dict[str, object]:
        if self._receive_buffer is None:
            return {}
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        small.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(small, (HOST, self._recorder.service.port))
        except OSError:
            small.close()
            raise
        return {"sock": small, "max_queue": 1}

    async def _listen(self, connection: ClientConnection) -> NoReturn:
        while True:
            await self.reading.wait()
            try:
                frame = read_frame(await connection.recv(decode=False))
            except ConnectionClosed as closed:
                end = Closed(at=now(), code=1006)
                if closed.rcvd is not None:
                    end = Closed(at=now(), code=closed.rcvd.code, reason=closed.rcvd.reason)
                self.note_end(end)
                raise
            if frame.type not in ASIDE:
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        chat = chat_of(frame)
        if chat not in self.subscriptions:
            raise AssertionError(f"{self._name} got {frame}, of which it asked nothing")
        event = event_of(frame)
        if isinstance(event, Subscribed):
            self.epoch = event.epoch
            self.have[chat] = max(event.head, self.have.get(chat, 0)) if event.recovered else event.head
        elif isinstance(event, Heard) and event.number is not None:
            self.have[chat] = event.number
        elif isinstance(event, Gap) and event.last is not None:
            self.have[chat] = event.last
        self._write(chat, event)

    def _write(self, chat: str, event: Event) -> None:
        self.subscriptions[chat].events.append(event)
        self._recorder.stir()


@asynccontextmanager
async def reading(*readers: Reader) -> AsyncIterator[None]:
    """They run, and all stand when the body begins; at its end they close, and that is written."""
    tasks = [asyncio.create_task(reader.run()) for reader in readers]
    try:
        for reader in readers:
            await reader.standing()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for reader in readers:
            reader.note_end(Closed(at=now(), code=1000))


def event_of(frame: Frame) -> Event:
    """`AssertionError`: a type that a subscription does not have."""
    match frame.type:
        case "message":
            return Heard(
                at=now(),
                number=frame.sequence_number,
                message_id=frame.message_id,
                timestamp=frame.timestamp,
                digest=digest(bytes(frame.payload)),
            )
        case "subscribed":
            return Subscribed(
                at=now(),
                head=frame.head_sequence,
                oldest=frame.oldest_sequence,
                epoch=frame.epoch,
                recovered=frame.recovered,
            )
        case "gap":
            return Gap(at=now(), first=frame.first, last=frame.last, unnumbered=frame.unnumbered)
        case "revoked":
            return Revoked(at=now())
        case "unsubscribed":
            return Left(at=now())
        case "error":
            return Denied(at=now(), code=frame.code)
        case other:
            raise AssertionError(f"a frame of the type {other!r}")
