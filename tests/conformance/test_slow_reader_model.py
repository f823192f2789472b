"""Clients that stall and read on at any moment: messages and gaps account for everything exactly once."""

from collections import Counter

import msgspec
from hypothesis import strategies as st

from tests.conformance.examples import Make, try_examples
from tests.conformance.harness import BACK_END, Client, Harness
from tests.manual_clock import turns
from tocsin.message import MessageType

CHATS = ["c1", "c2", "c3"]


class Publish(msgspec.Struct, frozen=True):
    """`is_awaited`: until it was delivered, or is gathered by its room."""

    chat: str
    kind: MessageType
    count: int
    is_awaited: bool


class Stall(msgspec.Struct, frozen=True):
    """After so many writes more; 0: now."""

    client: int
    writes: int


class ReadOn(msgspec.Struct, frozen=True):
    client: int


class LeaveAndComeBack(msgspec.Struct, frozen=True):
    """Without a replay, when all that was published before is done. Where nobody sees how a client reads, whoever does
    not is told nothing of what he missed when he leaves: so he reads on before."""

    client: int
    chat: str


class Pass(msgspec.Struct, frozen=True):
    """So many milliseconds pass."""

    milliseconds: int


class Settle(msgspec.Struct, frozen=True):
    pass


Action = Publish | Stall | ReadOn | LeaveAndComeBack | Pass | Settle
chats, clients = st.sampled_from(CHATS), st.integers(0, 1)
kinds: st.SearchStrategy[MessageType] = st.sampled_from(["fifo", "standard"])
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.builds(Publish, chat=chats, kind=kinds, count=st.integers(1, 3), is_awaited=st.booleans()),
    st.builds(Publish, chat=st.just("c1"), kind=kinds, count=st.integers(1, 3), is_awaited=st.just(True)),
    st.builds(Stall, client=clients, writes=st.integers(0, 3)),
    st.builds(ReadOn, client=clients),
    st.builds(LeaveAndComeBack, client=clients, chat=chats),
    st.builds(Pass, milliseconds=st.integers(0, 15)),
    st.builds(Settle),
)


class Story:
    def __init__(self, harness: Harness, clients: list[Client]) -> None:
        self.harness = harness
        self.clients = clients
        self.published: Counter[tuple[str, MessageType]] = Counter()

    async def act(self, action: Action) -> None:
        match action:
            case Publish(chat, kind, count, is_awaited):
                await self.harness.engine.bus.publish(
                    [self.harness.publication(chat, number, kind=kind) for number in range(count)]
                )
                self.published[chat, kind] += count
                if is_awaited:
                    await self.harness.processed()
            case Stall(client, 0):
                self.clients[client].stall()
            case Stall(client, writes) if not self.clients[client].is_stalled:
                self.clients[client].stall_after = writes
            case ReadOn(client):
                self.clients[client].resume()
            case LeaveAndComeBack(client, chat):
                await self.harness.settle()
                one = self.clients[client]
                if not self.harness.holds_sockets:
                    one.stall_after = None
                    one.resume()
                await one.unsubscribe(chat)
                await one.subscribe(chat)
            case Pass(milliseconds):
                self.harness.clock.advance(milliseconds / 1000)
                await turns()
            case Settle():
                await self.harness.settle()

    async def check(self) -> None:
        await self.harness.settle()
        for client in self.clients:
            client.stall_after = None
            client.resume()
        await self.harness.told()
        await self.harness.settle()
        for client in self.clients:
            for chat in CHATS:
                self.check_one(client, chat)

    def check_one(self, client: Client, chat: str) -> None:
        cursor = plain = 0
        for frame in client.frames:
            match frame:
                case {"type": "message", "payload": {"chatId": of}, "sequenceNumber": number} if of == chat:
                    assert number == cursor + 1
                    cursor = number
                case {"type": "message", "payload": {"chatId": of}} if of == chat:
                    plain += 1
                case {"type": "gap", "chatId": of} if of == chat:
                    if "from" in frame:
                        assert frame["from"] == cursor + 1
                        cursor = frame["to"]
                    plain += frame.get("unnumbered", 0)
        assert cursor == self.published[chat, "fifo"]
        assert plain == self.published[chat, "standard"]
        assert "message" not in [frame["type"] for frame in client.written_while_stalled]


async def tell(harness: Harness, actions: list[Action]) -> None:
    story = Story(harness, [await harness.connect(BACK_END, *CHATS) for _ in range(2)])
    for action in actions:
        await story.act(action)
    await story.check()


def test_whoever_reads_slowly_is_sent_or_told_of_everything_exactly_once(make_harness: Make) -> None:
    try_examples(make_harness, st.lists(ACTIONS, min_size=20, max_size=60), tell)
