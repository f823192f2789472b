"""Subscribing, leaving and publishing in any interleaving: one hears exactly the right numbers, in order.

What a rule begins it does not wait for: publishes, replays and deliveries overlap as hypothesis has them.
"""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.conformance.harness import BACK_END, Client
from tests.conformance.machine import EngineMachine, Make, run_machine
from tests.conformance.test_bus_model import EXAMPLES
from tests.manual_clock import turns
from tocsin.message import Message
from tocsin.topology import WEBSOCKET_FIFO_QUEUE

CHATS = ["c1", "c2"]
chats, numbers = st.sampled_from(CHATS), st.integers(0, 2)


class Listening(msgspec.Struct):
    """One subscription: it begins with frame `begin` and what comes after `last` (None: after its head)."""

    begin: int
    last: int | None
    end: int | None = None


class ResumeMachine(EngineMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = [self.run(self.harness.connect(BACK_END)) for _ in range(3)]
        self.listening: dict[tuple[int, str], list[Listening]] = {}
        self.publishing: list[asyncio.Task[None]] = []
        #: What each connection has asked for, one after another, as a gateway has it.
        self.asked: list[asyncio.Task[None] | None] = [None] * 3
        #: Set while the processor may go on: delivery can fall behind the store.
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.harness.meddle(WEBSOCKET_FIFO_QUEUE, self._hold_up)

    async def _hold_up(self, messages: Sequence[Message]) -> None:
        await self.flowing.wait()

    @rule()
    def hold_up_delivery(self) -> None:
        self.flowing.clear()

    @rule()
    def let_delivery_go_on(self) -> None:
        self.run(self._go_on())

    async def _go_on(self) -> None:
        self.flowing.set()

    @rule(chat=chats, count=st.integers(1, 4), waits=st.booleans())
    def publish(self, chat: str, count: int, waits: bool) -> None:
        async def begin() -> None:
            self.publishing.append(asyncio.ensure_future(self.harness.publish_many(chat, list(range(count)))))
            if waits:
                await asyncio.gather(*self.publishing)

        self.run(begin())

    @rule(client=numbers, chat=chats, back=st.one_of(st.none(), st.integers(0, 6)))
    def subscribe(self, client: int, chat: str, back: int | None) -> None:
        self.ask(client, self._subscribe(client, chat, back))

    async def _subscribe(self, client: int, chat: str, back: int | None) -> None:
        one = self.clients[client]
        live = await self.harness.engine.connections.is_live(one.connection_id, chat)
        last = None if back is None else max(0, await self.harness.head(chat) - back)
        if last is not None or not live:
            await self._end(client, chat)
            self.listening.setdefault((client, chat), []).append(Listening(len(one.frames), last))
        await one.subscribe(chat, last=last)

    @rule(client=numbers, chat=chats)
    def leave(self, client: int, chat: str) -> None:
        self.ask(client, self._leave(client, chat))

    async def _leave(self, client: int, chat: str) -> None:
        await self._end(client, chat)
        await self.clients[client].unsubscribe(chat)

    async def _end(self, client: int, chat: str) -> None:
        """What was gathered is flushed first: it belongs to the subscription that ends."""
        past = self.listening.get((client, chat))
        if past and past[-1].end is None:
            await self.harness.engine.connections.leave(self.clients[client].connection_id, chat)
            past[-1].end = len(self.clients[client].frames)

    def ask(self, client: int, asked: object) -> None:
        async def in_turn(before: asyncio.Task[None] | None) -> None:
            if before is not None:
                await before
            await asked  # type: ignore[misc]

        async def begin() -> None:
            self.asked[client] = asyncio.ensure_future(in_turn(self.asked[client]))

        self.run(begin())

    @rule()
    def wait_for_answers(self) -> None:
        async def answered() -> None:
            await asyncio.gather(*filter(None, self.asked))

        self.run(answered())

    @rule(number=st.integers(1, 30))
    def go_on(self, number: int) -> None:
        self.run(turns(number))

    @rule(milliseconds=st.integers(1, 20))
    def let_time_pass(self, milliseconds: int) -> None:
        async def advance() -> None:
            self.harness.clock.advance(milliseconds / 1000)
            await turns()

        self.run(advance())

    @rule()
    def settle(self) -> None:
        self.run(self._settle())

    async def _settle(self) -> None:
        self.flowing.set()
        await self.harness.clock.run(asyncio.gather(*self.publishing, *filter(None, self.asked)))
        await self.harness.settle()

    def conclude(self) -> None:
        self.run(self._settle())
        for (client, chat), past in self.listening.items():
            head = self.run(self.harness.head(chat))
            for subscription in past:
                self.check(self.clients[client], chat, subscription, head)

    def check(self, client: Client, chat: str, subscription: Listening, head: int) -> None:
        frames = [
            frame
            for frame in client.frames[subscription.begin : subscription.end]
            if frame.get("chatId", frame.get("payload", {}).get("chatId")) == chat
        ]
        assert [frame for frame in frames if frame["type"] in ("gap", "error", "revoked")] == []
        heard = [frame["sequenceNumber"] for frame in frames if frame["type"] == "message"]
        began = [frame for frame in frames if frame["type"] == "subscribed"]
        assert all(later == earlier + 1 for earlier, later in pairwise(heard))
        first = began[0]["headSequence"] if subscription.last is None else subscription.last
        assert began[0]["recovered"] is True
        assert not heard or heard[0] == first + 1
        if subscription.end is None:
            assert first + len(heard) == head


def test_whoever_subscribes_and_leaves_whenever_hears_exactly_what_is_his(make_harness: Make) -> None:
    run_machine(ResumeMachine, make_harness, examples=EXAMPLES, steps=40)
