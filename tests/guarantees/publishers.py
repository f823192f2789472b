"""Publishers that do not give up: drafts -> the P2P or the A2P door -> `Publish` records.

Rules: what came to an unknown end is repeated if it has an id, with that id, before anything new; without an id it is
left unknown. Some that were acknowledged are repeated too, for a client cannot know better.
"""

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from tests.guarantees.drafts import Draft
from tests.guarantees.recorder import Recorder, judge_code, now, open_socket, read_frame
from tests.guarantees.records import Acked, Publish, Unknown

RECONNECT: Final = 0.03  # seconds


class _Supply:
    """What to send next: first what must be repeated, then something new, until it is told to stop."""

    def __init__(self, drafts: Iterator[Draft], seed: int, repeats: float) -> None:
        self._drafts = drafts
        self._again: deque[Draft] = deque()
        self._chance = random.Random(seed)
        self._repeats = repeats
        self.stopped = False

    def next(self) -> Draft | None:
        if self._again:
            return self._again.popleft()
        return None if self.stopped else next(self._drafts, None)

    def settle(self, draft: Draft, publish: Publish) -> None:
        if draft.dedupe_id is None:
            return
        unsure = isinstance(publish.answer, Unknown)
        if unsure or (isinstance(publish.answer, Acked) and self._chance.random() < self._repeats):
            self._again.append(draft)


class SocketPublisher:
    """Keeps `window` messages in flight on one connection; waits `pause` seconds after each answer."""

    def __init__(
        self,
        recorder: Recorder,
        user: str,
        drafts: Iterator[Draft],
        *,
        window: int = 8,
        pause: float = 0.0,
        repeats: float = 0.05,
        seed: int = 0,
    ) -> None:
        self._recorder = recorder
        self._user = user
        self._supply = _Supply(drafts, seed, repeats)
        self._window = window
        self._pause = pause
        self._lives = 0

    def stop(self) -> None:
        """`run` ends when everything that was sent has its answer."""
        self._supply.stopped = True

    async def run(self) -> None:
        finished = False
        while not finished:
            try:
                async with open_socket(self._recorder.service, self._user) as socket:
                    finished = await self._work(socket)
            except (OSError, EOFError, TimeoutError, WebSocketException):
                await asyncio.sleep(RECONNECT)

    async def _work(self, socket: ClientConnection) -> bool:
        self._lives += 1
        name = f"publisher {self._user} {id(self):x} #{self._lives}"
        pending: dict[str, tuple[Draft, float]] = {}
        sent = 0
        try:
            while True:
                while len(pending) < self._window and (draft := self._supply.next()) is not None:
                    sent += 1
                    pending[f"{sent}"] = draft, now()
                    await socket.send(draft.body(f"{sent}"), text=True)
                if not pending:
                    return True
                async with asyncio.timeout(10):
                    frame = read_frame(await socket.recv(decode=False))
                if frame.type not in {"ack", "error"} or frame.request_id not in pending:
                    raise AssertionError(f"a publisher that subscribed nothing got {frame}")
                draft, sent_at = pending.pop(frame.request_id)
                answer = (
                    Acked(message_id=frame.message_id, timestamp=frame.timestamp, duplicate=frame.duplicate)
                    if frame.type == "ack"
                    else judge_code(frame.code)
                )
                self._supply.settle(draft, self._recorder.wrote(self._user, draft, sent_at, answer, name))
                if self._pause:
                    await asyncio.sleep(self._pause)
        finally:
            for draft, sent_at in pending.values():
                lost = self._recorder.wrote(self._user, draft, sent_at, Unknown(reason="cut"), name)
                self._supply.settle(draft, lost)


class RequestPublisher:
    """One request after another, `batch` messages in each (1: `POST /publish`)."""

    def __init__(
        self,
        recorder: Recorder,
        user: str,
        drafts: Iterator[Draft],
        *,
        batch: int = 1,
        pause: float = 0.0,
        repeats: float = 0.05,
        seed: int = 0,
    ) -> None:
        self._recorder = recorder
        self._user = user
        self._supply = _Supply(drafts, seed, repeats)
        self._batch = batch
        self._pause = pause

    def stop(self) -> None:
        self._supply.stopped = True

    async def run(self) -> None:
        while batch := list(islice(iter(self._supply.next, None), self._batch)):
            if self._batch == 1:
                published = [await self._recorder.publish(batch[0], self._user)]
            else:
                published = await self._recorder.publish_batch(batch, self._user)
            for draft, publish in zip(batch, published, strict=True):
                self._supply.settle(draft, publish)
            if any(isinstance(publish.answer, Unknown) for publish in published):
                await asyncio.sleep(RECONNECT)
            elif self._pause:
                await asyncio.sleep(self._pause)
