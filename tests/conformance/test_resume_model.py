"""Subscribing, leaving and publishing in any interleaving: one hears exactly the right numbers, in order.

What an action begins it does not wait for: publishes, replays and deliveries overlap as hypothesis has them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from itertools import pairwise

import msgspec
from hypothesis import strategies as st

from tests.conformance.examples import Make, try_examples
from tests.conformance.harness import BACK_END, Client, Harness, chat_of
from tests.manual_clock import turns
from tocsin.message import Message
from tocsin.topology import WEBSOCKET_FIFO_QUEUE


class Publish(msgspec.Struct, frozen=True):
    chat: str
    count: int
    waits: bool


class Subscribe(msgspec.Struct, frozen=True):
    """From so many messages `back`; None: without a replay."""

    client: int
    chat: str
    back: int | None


class Leave(msgspec.Struct, frozen=True):
    client: int
    chat: str


class Deliver(msgspec.Struct, frozen=True):
    """Whether the processor goes on: delivery can fall behind the store."""

    goes_on: bool


class Pass(msgspec.Struct, frozen=True):
    """So many milliseconds pass."""

    milliseconds: int


class Answer(msgspec.Struct, frozen=True):
    """All that was asked for is answered."""


class Settle(msgspec.Struct, frozen=True):
    pass


Action = Publish | Subscribe | Leave | Deliver | Pass | Answer | Settle
chats, clients = st.sampled_from(["c1", "c1", "c2"]), st.integers(0, 2)
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.builds(Publish, chat=chats, count=st.integers(1, 4), waits=st.booleans()),
    st.builds(Publish, chat=chats, count=st.integers(1, 4), waits=st.just(True)),
    st.builds(Subscribe, client=clients, chat=chats, back=st.one_of(st.none(), st.integers(0, 6))),
    st.builds(Leave, client=clients, chat=chats),
    st.builds(Deliver, goes_on=st.booleans()),
    st.builds(Pass, milliseconds=st.integers(0, 20)),
    st.builds(Answer),
    st.builds(Settle),
)


class Subscription(msgspec.Struct):
    """It begins with frame `begin` and brings what comes after `last` (None: after its head)."""

    begin: int
    last: int | None
    end: int | None = None


class Story:
    def __init__(self, harness: Harness, clients: Sequence[Client]) -> None:
        self.harness = harness
        self.clients = clients
        self.subscriptions: dict[tuple[int, str], list[Subscription]] = defaultdict(list)
        self.publishing: list[asyncio.Task[None]] = []
        #: What each connection has asked for, one after another, as a gateway has it.
        self.asked: list[asyncio.Task[None]] = []
        self.last_asked: dict[int, asyncio.Task[None]] = {}
        self.flowing = asyncio.Event()
        self.flowing.set()
        harness.meddle(WEBSOCKET_FIFO_QUEUE, self.flow)

    async def flow(self, messages: Sequence[Message]) -> None:
        await self.flowing.wait()

    async def act(self, action: Action) -> None:
        match action:
            case Publish(chat, count, waits):
                publishing = asyncio.ensure_future(self.harness.publish_many(chat, list(range(count))))
                self.publishing.append(publishing)
                if waits:
                    await publishing
            case Subscribe(client, chat, back):
                self.ask(client, self.subscribe(client, chat, back))
            case Leave(client, chat):
                self.ask(client, self.leave(client, chat))
            case Deliver(goes_on):
                (self.flowing.set if goes_on else self.flowing.clear)()
            case Pass(milliseconds):
                self.harness.clock.advance(milliseconds / 1000)
                await turns()
            case Answer():
                await asyncio.gather(*self.asked)
            case Settle():
                await self.settle()

    def ask(self, client: int, asked: Coroutine[None, None, None]) -> None:
        async def in_turn(before: asyncio.Task[None] | None) -> None:
            if before is not None:
                await before
            await asked

        self.last_asked[client] = asyncio.ensure_future(in_turn(self.last_asked.get(client)))
        self.asked.append(self.last_asked[client])

    async def subscribe(self, client: int, chat: str, back: int | None) -> None:
        one = self.clients[client]
        is_live = await self.harness.engine.connections.is_live(one.connection_id, chat)
        last = None if back is None else max(0, await self.harness.head(chat) - back)
        if last is not None or not is_live:
            await self.end(client, chat)
            self.subscriptions[client, chat].append(Subscription(len(one.frames), last))
        await one.subscribe(chat, last=last)

    async def leave(self, client: int, chat: str) -> None:
        await self.end(client, chat)
        await self.clients[client].unsubscribe(chat)

    async def end(self, client: int, chat: str) -> None:
        """What was due belongs to the subscription that ends."""
        past = self.subscriptions[client, chat]
        if past and past[-1].end is None:
            await self.harness.engine.connections.leave(self.clients[client].connection_id, chat)
            past[-1].end = len(self.clients[client].frames)

    async def settle(self) -> None:
        self.flowing.set()
        await self.harness.clock.run(asyncio.gather(*self.publishing, *self.asked))
        await self.harness.settle()

    async def check(self) -> None:
        await self.settle()
        for (client, chat), past in self.subscriptions.items():
            head = await self.harness.head(chat)
            for index, subscription in enumerate(past):
                self.check_one(self.clients[client], chat, subscription, head, follows=index > 0)

    def check_one(self, client: Client, chat: str, subscription: Subscription, head: int, *, follows: bool) -> None:
        frames = [frame for frame in client.frames[subscription.begin : subscription.end] if chat_of(frame) == chat]
        kinds = {"message", "subscribed"} if self.harness.holds_sockets else {"message", "subscribed", "gap"}
        assert {frame["type"] for frame in frames} <= kinds
        heard = self.harness.accounted(frames, chat)
        began = next(frame for frame in frames if frame["type"] == "subscribed")
        first = began["headSequence"] if subscription.last is None else subscription.last
        assert began["recovered"] is True
        if follows and "no_repeat" not in self.harness.engine.strengths:
            heard = without_late(heard, first)
        assert all(later == earlier + 1 for earlier, later in pairwise(heard))
        assert not heard or heard[0] == first + 1
        if subscription.end is None:
            assert first + len(heard) == head


def without_late(heard: Sequence[int], first: int) -> list[int]:
    """Less what was on its way to the subscription before: those numbers were that one's, or are heard here as well."""
    due: list[int] = []
    for number in heard:
        if number == first + len(due) + 1:
            due.append(number)
    assert all(number <= first or number in due for number in heard)
    return due


async def tell(harness: Harness, actions: list[Action]) -> None:
    story = Story(harness, [await harness.connect(BACK_END) for _ in range(3)])
    for action in actions:
        await story.act(action)
    await story.check()


def test_whoever_subscribes_and_leaves_whenever_hears_exactly_what_is_his(make_harness: Make) -> None:
    try_examples(make_harness, st.lists(ACTIONS, min_size=20, max_size=60), tell)
