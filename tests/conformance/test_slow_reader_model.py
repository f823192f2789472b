"""Clients that stall and read on at any moment: messages and gaps account for everything exactly once."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.conformance.harness import BACK_END, Client
from tests.conformance.machine import EngineMachine, Make, run_machine
from tests.conformance.test_bus_model import EXAMPLES
from tests.manual_clock import turns
from tocsin.message import MessageType

CHATS = ["c1", "c2", "c3"]
chats, readers = st.sampled_from(CHATS), st.integers(0, 1)


class SlowReaderMachine(EngineMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = [self.run(self.harness.connect(BACK_END, *CHATS)) for _ in range(2)]
        self.published: Counter[tuple[str, MessageType]] = Counter()

    @rule(chat=chats, kind=st.sampled_from(["fifo", "standard"]), count=st.integers(1, 3))
    def publish(self, chat: str, kind: MessageType, count: int) -> None:
        async def publish() -> None:
            batch = [self.harness.publication(chat, number, kind=kind) for number in range(count)]
            await self.harness.engine.bus.publish(batch)

        self.run(publish())
        self.published[chat, kind] += count

    @rule(reader=readers)
    def stall(self, reader: int) -> None:
        self.run(self._do(self.clients[reader].stall))

    @rule(reader=readers, writes=st.integers(1, 3))
    def stall_later(self, reader: int, writes: int) -> None:
        if not self.clients[reader].is_stalled:
            self.clients[reader].stall_after = writes

    @rule(reader=readers)
    def read_on(self, reader: int) -> None:
        self.run(self._do(self.clients[reader].resume))

    async def _do(self, act: object) -> None:
        assert callable(act)
        act()

    @rule(reader=readers, chat=chats)
    def leave_and_come_back(self, reader: int, chat: str) -> None:
        """Without a replay: numbers that were out before it came back are none of its own."""
        self.run(self._leave_and_come_back(self.clients[reader], chat))

    async def _leave_and_come_back(self, client: Client, chat: str) -> None:
        await self.harness.settle()
        await client.unsubscribe(chat)
        await client.subscribe(chat)

    @rule(milliseconds=st.integers(0, 15))
    def let_time_pass(self, milliseconds: int) -> None:
        async def advance() -> None:
            self.harness.clock.advance(milliseconds / 1000)
            await turns()

        self.run(advance())

    @rule()
    def settle(self) -> None:
        self.run(self.harness.settle())

    def conclude(self) -> None:
        self.run(self._all_read_on())
        for client in self.clients:
            for chat in CHATS:
                self.check(client, chat)

    async def _all_read_on(self) -> None:
        await self.harness.settle()
        for client in self.clients:
            client.stall_after = None
            client.resume()
        await self.harness.settle()

    def check(self, client: Client, chat: str) -> None:
        cursor = plain = 0
        for frame in client.frames:
            match frame:
                case {"type": "message", "payload": {"chatId": of}, **rest} if of == chat:
                    number = rest.get("sequenceNumber")
                    if number is None:
                        plain += 1
                    else:
                        assert number == cursor + 1
                        cursor = number
                case {"type": "gap", "chatId": of, **rest} if of == chat:
                    if "from" in rest:
                        assert rest["from"] == cursor + 1
                        cursor = rest["to"]
                    plain += rest.get("unnumbered", 0)
        assert cursor == self.published[chat, "fifo"]
        assert plain == self.published[chat, "standard"]
        live = [frame["type"] for frame in client.written_while_stalled]
        assert "message" not in live


def test_whoever_reads_slowly_is_sent_or_told_of_everything_exactly_once(make_harness: Make) -> None:
    run_machine(SlowReaderMachine, make_harness, examples=EXAMPLES, steps=40)
