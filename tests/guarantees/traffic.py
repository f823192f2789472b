"""Everybody at once: publishers at every door, readers that stay and readers that drop, revocations, history reads.

Rules: a seed decides everything that we decide. `finish` waits for what is promised, not for a time, and then lets the
checker judge.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Final, Self

import msgspec

from tests.guarantees.checker import Breach, check
from tests.guarantees.claims.acceptance import acknowledged_is_heard
from tests.guarantees.drafts import draft, drafts
from tests.guarantees.publishers import RequestPublisher, SocketPublisher
from tests.guarantees.readers import Reader, reading
from tests.guarantees.recorder import Recorder, now
from tests.guarantees.records import FOREVER, HistoryRead, Revocation

ROOMS: Final = tuple(f"room-{count}" for count in range(6))
#: Members of every room.
MEMBERS: Final = ("alice", "bob", "carol", "dave")
#: Granted and revoked again and again, in the first room.
OUTCAST: Final = "eve"
#: Owner of every room.
OWNER: Final = "olga"


class Traffic:
    """`async with Traffic(...)`: it runs until `finish`."""

    def __init__(
        self,
        recorder: Recorder,
        seed: int,
        *,
        chats: Sequence[str] = ROOMS,
        pause: float = 0.01,
        drops: bool = True,
        revokes: bool = True,
    ) -> None:
        self.recorder = recorder
        self._chance = random.Random(seed)
        self._stopping = asyncio.Event()
        self._drops = drops
        self._revokes = revokes
        self._chats = tuple(chats)
        alice, bob, service, dave = (
            drafts(name, chats, seed + place) for place, name in enumerate(("a", "b", "s", "d"))
        )
        self.publishers: list[SocketPublisher | RequestPublisher] = [
            SocketPublisher(recorder, "alice", alice, pause=pause, seed=seed),
            SocketPublisher(recorder, "bob", bob, window=1, pause=pause, seed=seed),
            RequestPublisher(recorder, "service", service, pause=pause, seed=seed),
            RequestPublisher(recorder, "dave", dave, batch=7, pause=5 * pause, seed=seed),
        ]
        self.readers = [
            Reader(recorder, "carol", self._chats, "carol everywhere"),
            Reader(recorder, "alice", self._chats[:1], "alice in one room"),
            Reader(recorder, "bob", self._chats[-1:], "bob in one room"),
        ]
        self.droppers = [
            Reader(recorder, "dave", self._chats[:1], "dave who drops"),
            Reader(recorder, "carol", self._chats, "carol who drops"),
        ]
        self._publishing: list[asyncio.Task[None]] = []
        self._rest: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        readers = [*self.readers, *self.droppers]
        self._publishing = [asyncio.create_task(publisher.run()) for publisher in self.publishers]
        self._rest = [asyncio.create_task(reader.run()) for reader in readers]
        self._publishing.append(asyncio.create_task(self._look()))
        if self._drops:
            self._publishing.append(asyncio.create_task(self._drop()))
        if self._revokes:
            self._publishing.append(asyncio.create_task(self._revoke()))
        return self

    async def __aexit__(self, *reason: object) -> None:
        tasks = [*self._publishing, *self._rest]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run_until(self, count: int, deadline: float = 20.0) -> None:
        """Goes on until `count` more publishes have been answered; the first error of anybody ends it."""
        goal = len(self.recorder.log.publishes) + count

        def come() -> bool:
            self._raise_what_failed()
            return len(self.recorder.log.publishes) >= goal

        await self.recorder.until(come, f"{count} answers", deadline)

    async def finish(self, deadline: float = 20.0) -> list[Breach]:
        """Stops publishing, waits until all is answered, read and heard, and checks the whole log."""
        self._stopping.set()
        for publisher in self.publishers:
            publisher.stop()
        async with asyncio.timeout(deadline):
            await asyncio.gather(*self._publishing)
        everybody = [*self.readers, *self.droppers]
        for reader in everybody:
            await reader.standing()
        await settle(self.recorder, self._chats, deadline)
        if self.recorder.log.poison:
            await self.recorder.read_dead_letters()
        self._raise_what_failed()
        self.recorder.log.output = self.recorder.service.output
        return check(self.recorder.log)

    def _raise_what_failed(self) -> None:
        for task in [*self._publishing, *self._rest]:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _until_stopping(self, seconds: float) -> bool:
        """False when `seconds` have passed."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _drop(self) -> None:
        while not await self._until_stopping(self._chance.uniform(0.05, 0.3)):
            self._chance.choice(self.droppers).drop()

    async def _look(self) -> None:
        """What was heard is read at once, and now and then everything."""
        while not await self._until_stopping(0.02):
            reader = self._chance.choice(self.readers)
            chat = self._chance.choice(list(reader.subscriptions) or list(self._chats))
            if self._chance.random() < 0.1:
                await self.recorder.read_history(chat, self._chance.choice(("number", "time")))
            elif number := reader.have.get(chat):
                await self.recorder.read_history(chat, first=max(1, number - 20), last=number)

    async def _revoke(self) -> None:
        room = self._chats[0]
        rounds = 0
        while not self._stopping.is_set():
            rounds += 1
            await revoke_once(self.recorder, OUTCAST, room, f"{OUTCAST} #{rounds}", self._chance.uniform(0.0, 0.05))
            await self._until_stopping(0.05)


async def settle(recorder: Recorder, chats: Sequence[str], deadline: float = 20.0) -> dict[str, HistoryRead]:
    """Reads every chat, waits until all who listen have heard what they must, and reads every chat again."""
    for chat in chats:
        await recorder.read_whole(chat)
    until = now() + deadline
    while now() < until:
        if next(iter(acknowledged_is_heard(recorder.log)), None) is None:
            break
        await asyncio.sleep(0.05)  # not after each frame: judging costs more than that
    return {chat: await recorder.read_whole(chat) for chat in chats}


async def revoke_once(recorder: Recorder, user: str, chat: str, name: str, pause: float) -> None:
    """Granted, connected, `pause` seconds in the room, revoked; then tries everything that is now forbidden."""
    again_at = now()
    await recorder.grant(user, chat, "member")
    for place, revocation in enumerate(recorder.log.revocations):
        if (revocation.user, revocation.chat, revocation.again_at) == (user, chat, FOREVER):
            recorder.log.revocations[place] = msgspec.structs.replace(revocation, again_at=again_at)
    reader = Reader(recorder, user, [chat], name)
    async with reading(reader):
        await asyncio.sleep(pause)
        asked_at = now()
        answer = await recorder.insist("DELETE", "/permissions", params={"userId": user, "chatId": chat})
        assert answer.status_code == 200, answer.text
        fence = answer.json()["fenceSequence"]
        revoked = Revocation(user=user, chat=chat, fence=fence, asked_at=asked_at, answered_at=now())
        recorder.log.revocations.append(revoked)
        await recorder.publish(draft(chat, f"{name} after {asked_at}"), user)
        await recorder.read_history(chat, user=user)
        await recorder.until(lambda: reader.is_out, f"`revoked` for {name}", 20)
