"""What the conformance suite knows of an engine: the protocols, and a stand that it can be handled by.

    tests -> Harness (start, restart, crash, settle, connect, meddle) -> an engine's own harness -> tocsin.engine.Engine

Rules:
- a test sees the Engine, the Service and this; never which engine it is;
- time is the harness's: nothing is waited for by sleeping;
- where an engine lacks a strength, `heard` and `stored` ask for its weaker promise.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any, Final

import msgspec

from tests.manual_clock import START, STEP, ManualClock, turns
from tocsin.bus import Bus, Consumer, DeadLetter, Depth, Receipt
from tocsin.clients import Connection
from tocsin.components.connection_handler import ReplayLimits
from tocsin.engine import Engine
from tocsin.engines.file_keys import RULES, FileKeys
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.identity import Identity, Keys, TokenCheck
from tocsin.message import WEBSOCKET, Message, MessageType, Publication, read_back
from tocsin.roles import Role
from tocsin.service import Service
from tocsin.tables import Numbers
from tocsin.topology import MESSAGE_STORAGE_QUEUE, QUEUES, WEBSOCKET_FIFO_QUEUE, Queue

DAY: Final = 86_400_000
FOR_EVER: Final = 1 << 60
Frame = dict[str, Any]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a test may ask of an engine; times in milliseconds."""

    retention: int = 30 * DAY
    publish_rate: float = 1e6
    publish_burst: float = 1e6
    connections_per_user: int = 100
    chats_per_connection: int = 300
    claim_capacity: int = 10_000
    replay_messages: int = 10_000
    failpoints: str = ""


def identity(
    user_id: str,
    *scopes: str,
    expires_at: int = FOR_EVER,
    chat_ids: Collection[str] | None = None,
) -> Identity:
    return Identity(
        user_id=user_id,
        scopes=frozenset(scopes),
        expires_at=expires_at,
        chat_ids=None if chat_ids is None else frozenset(chat_ids),
    )


def connection(connection_id: str, user: Identity | str = "alice", at: int = START) -> Connection:
    """One that begins then."""
    return Connection(
        connection_id=connection_id,
        identity=identity(user) if isinstance(user, str) else user,
        source_ip="192.0.2.1",
        user_agent="suite/1",
        connected_at=at,
        last_active_at=at,
    )


#: A back end that may do everything.
BACK_END: Final = identity("back-end", "permissions:write", "publish:any", "messages:read")


class Client:
    """A connected client that writes down what it is sent; a `tocsin.clients.Socket`.

    `stall_after`: so many writes later its socket takes no more.
    """

    def __init__(self, connection_id: str, user: Identity, harness: "Harness") -> None:
        self.connection_id = connection_id
        self.identity = user
        self.last_active = harness.clock.monotonic()
        self.frames: list[Frame] = []
        self.closed: tuple[int, str] | None = None
        self.stall_after: int | None = None
        self.is_stalled = False
        self.written_while_stalled: list[Frame] = []
        self.write: Callable[[bytes], None] = self._take
        self._harness = harness
        self._news = asyncio.Event()

    def _take(self, frames: bytes) -> None:
        for payload in self._harness.split(frames):
            frame = msgspec.json.decode(payload)
            self.frames.append(frame)
            if self.is_stalled:
                self.written_while_stalled.append(frame)
        self._news.set()
        if self.stall_after is not None:
            self.stall_after -= 1
            if self.stall_after <= 0:
                self.stall_after = None
                self.stall()

    def close(self, code: int, reason: str = "") -> None:
        self.closed = code, reason
        self._news.set()

    def stall(self) -> None:
        self.is_stalled = True
        self._harness.stall(self.connection_id)

    def resume(self) -> None:
        self.is_stalled = False
        self._harness.resume(self.connection_id)

    async def until(self, happened: Callable[[], bool], *, step: float = STEP) -> None:
        """Lets time pass, in steps of so many seconds, until what the client has been sent makes it true."""

        async def wait() -> None:
            while not happened():
                self._news.clear()
                await self._news.wait()

        await self._harness.clock.run(wait(), step=step)

    def of_type(self, kind: str, chat_id: str | None = None) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == kind and chat_id in (None, chat_of(frame))]

    # What it asks for

    async def subscribe(self, chat_id: str, *, last: int | None = None, epoch: str | None = None) -> None:
        await self._harness.service.connection_handler.subscribe(
            self.connection_id, chat_id, last_sequence=last, epoch=epoch, request_id=None
        )

    async def unsubscribe(self, chat_id: str) -> None:
        await self._harness.service.connection_handler.unsubscribe(self.connection_id, chat_id, None)


def chat_of(frame: Frame) -> str | None:
    """The chat that a frame speaks of."""
    chat_id = frame["payload"]["chatId"] if frame["type"] == "message" else frame.get("chatId")
    assert chat_id is None or isinstance(chat_id, str)
    return chat_id


class Harness(ABC):
    """One engine on one store, through all its lives."""

    engine: Engine
    service: Service
    #: A hundredth of the messages that a test may publish where it needs many.
    many: int = 100
    #: How often it is asked whose token ends, in milliseconds.
    asked_each: int = 1_000

    def __init__(self, files: FileKeys) -> None:
        self.clock = ManualClock()
        self.files = files
        self.options = Options()
        self._consumers: Mapping[Queue, Consumer] | None = None
        self._meddlers: dict[str, list[Consumer]] = {}
        self._connection_ids = (f"connection-{number}" for number in count(1))
        self._is_started = False

    # What each engine has of its own

    @abstractmethod
    async def _open(self, options: Options, failpoints: Failpoints) -> Engine: ...

    @abstractmethod
    def _begin(self) -> None:
        """The queues have their consumers."""

    @abstractmethod
    async def _close(self) -> None: ...

    @abstractmethod
    async def _crash(self) -> None:
        """As kill -9: what was not durable at this moment is lost."""

    @abstractmethod
    def attach(self, client: Client) -> None: ...

    @abstractmethod
    def stall(self, connection_id: str) -> None: ...

    @abstractmethod
    def resume(self, connection_id: str) -> None: ...

    @abstractmethod
    async def lose(self, client: Client) -> None:
        """Its connection has ended, and the engine is told."""

    @abstractmethod
    async def told(self) -> None:
        """Returns when who reads on has been told what he missed."""

    @abstractmethod
    def split(self, frames: bytes) -> Sequence[bytes]:
        """The payloads of one write."""

    def _start_clocks(self) -> None:
        """Ended tokens, expired messages."""
        self.service.start()

    async def _stop_clocks(self) -> None:
        await self.service.stop()

    # Its lives

    async def start(self, options: Options | None = None, *, consumers: Mapping[Queue, Consumer] | None = None) -> None:
        """With `consumers` there is no service, only the bus: queues that are not named are stored or dropped."""
        self.options = self.options if options is None else options
        self._consumers = consumers
        opened = await self._open(self.options, Failpoints(self.options.failpoints))
        self.engine = msgspec.structs.replace(opened, bus=_Tapped(opened.bus, opened.numbers, self._meddlers))
        self._is_started = True
        if consumers is None:
            tokens = TokenCheck(await Keys.open(self.files, print, self.clock.now()), RULES)
            self.service = Service(
                self.engine,
                tokens,
                chats_per_connection=self.options.chats_per_connection,
                replay=ReplayLimits(messages=self.options.replay_messages),
            )
        else:
            for queue in QUEUES:
                spare = self.engine.messages.store if queue is MESSAGE_STORAGE_QUEUE else _drop
                self.engine.bus.consume(queue, consumers.get(queue, spare))
        self._begin()
        if consumers is None:
            self._start_clocks()

    async def stop(self) -> None:
        if self._is_started:
            self._is_started = False
            if self._consumers is None:
                await self._stop_clocks()
            await self._close()

    async def restart(
        self, options: Options | None = None, *, consumers: Mapping[Queue, Consumer] | None = None
    ) -> None:
        consumers = self._consumers if consumers is None else consumers
        await self.stop()
        await self.start(options, consumers=consumers)

    async def crash(self, *, consumers: Mapping[Queue, Consumer] | None = None) -> None:
        """Ends without a word, and starts again on what was durable."""
        consumers = self._consumers if consumers is None else consumers
        self._is_started = False
        if self._consumers is None:
            await self._stop_clocks()
        await self._crash()
        await self.start(consumers=consumers)

    async def settle(self) -> None:
        """Returns when all that was accepted is done, or dead, and clients have been sent what is theirs."""
        await self.clock.run(self.engine.bus.drain())
        for _ in range(3):
            self.clock.advance(0.05)
            await turns()

    async def processed(self) -> None:
        """Returns when all that was accepted is done. What rooms gather stays gathered."""
        await self.engine.bus.drain()

    def meddle(self, queue: Queue, meddler: Consumer) -> Callable[[], None]:
        """Is awaited before the queue's consumer, and may fail or hold up a batch; returns what ends it."""
        meddlers = self._meddlers.setdefault(queue.name, [])
        meddlers.append(meddler)
        return lambda: meddlers.remove(meddler)

    # The two promises that can be weaker

    @property
    def holds_sockets(self) -> bool:
        """Whether the engine sees how a client reads: then a replay waits for it, and no answer fails."""
        return "holds_sockets" in self.engine.strengths

    async def went_through(self, subscribing: Awaitable[None]) -> bool:
        """Where nobody sees how a client reads, a replay to one that does not is refused after a while."""
        try:
            await self.clock.run(subscribing)
        except Refusal as refusal:
            if self.holds_sockets or refusal.code != "unavailable":
                raise
            return False
        return True

    def heard(self, client: Client, chat_id: str) -> list[Frame]:
        """The chat's messages as the client's application takes them."""
        messages = client.of_type("message", chat_id)
        if "no_repeat" not in self.engine.strengths:
            messages = list({frame["messageId"]: frame for frame in messages}.values())
        return messages

    def numbers(self, client: Client, chat_id: str) -> list[int]:
        return [frame["sequenceNumber"] for frame in self.heard(client, chat_id) if "sequenceNumber" in frame]

    def accounted(self, frames: Sequence[Frame], chat_id: str) -> list[int]:
        """The chat's numbers in them: heard, and where a replay may be overtaken also those that a gap tells."""
        numbers: list[int] = []
        for frame in frames:
            if frame["type"] == "gap" and frame["chatId"] == chat_id and not self.holds_sockets:
                numbers += range(frame["from"], frame["to"] + 1)
            elif frame["type"] == "message" and chat_of(frame) == chat_id:
                numbers.append(frame["sequenceNumber"])
        return numbers

    async def stored(self) -> None:
        """Returns when what was acknowledged can be read."""
        if "history_at_once" not in self.engine.strengths:
            await self.settle()

    # What tests do most

    def publication(
        self,
        chat_id: str,
        content: object = "hello",
        *,
        kind: MessageType = "fifo",
        sender: str = "alice",
        id: str | None = None,
        channel: str = WEBSOCKET,
        numbered: bool | None = None,
    ) -> Publication:
        """Stamped now."""
        message_id, timestamp = self.engine.ids.draw(self.clock.now())
        payload = msgspec.json.encode({"chatId": chat_id, "eventType": "chat", "content": content})
        return Publication(
            message_id=message_id,
            timestamp=timestamp,
            sender_id=sender,
            chat_id=chat_id,
            target_channel=channel,
            message_type=kind,
            payload=payload,
            deduplication_id=id,
            numbered=channel == WEBSOCKET and kind == "fifo" if numbered is None else numbered,
        )

    async def publish(
        self,
        chat_id: str,
        content: object = "hello",
        *,
        kind: MessageType = "fifo",
        sender: str = "alice",
        id: str | None = None,
        channel: str = WEBSOCKET,
        numbered: bool | None = None,
    ) -> Receipt:
        """Straight to the bus; a refusal is raised."""
        one = self.publication(chat_id, content, kind=kind, sender=sender, id=id, channel=channel, numbered=numbered)
        (answer,) = await self.engine.bus.publish([one])
        if isinstance(answer, Refusal):
            raise answer
        return answer

    async def publish_many(self, chat_id: str, contents: Sequence[object]) -> None:
        """FIFO messages, in one batch."""
        answers = await self.engine.bus.publish([self.publication(chat_id, content) for content in contents])
        assert all(isinstance(answer, Receipt) for answer in answers)

    async def grant(self, user_id: str, chat_id: str, role: Role) -> None:
        await self.engine.permissions.grant(BACK_END, user_id, chat_id, role, self.clock.now())

    async def connect(self, user: str | Identity, *chat_ids: str) -> Client:
        """A client that listens to these chats, as one that has just been upgraded."""
        who = identity(user) if isinstance(user, str) else user
        client = Client(next(self._connection_ids), who, self)
        handler = self.service.connection_handler
        await handler.connect(connection(client.connection_id, who, self.clock.now()))
        frames = await handler.subscribe_now(client.connection_id, chat_ids) if chat_ids else ()
        self.attach(client)
        client.frames += [msgspec.json.decode(frame) for frame in frames]
        return client

    async def member(self, user_id: str, chat_id: str) -> Client:
        """A member of the chat, connected and listening."""
        await self.grant(user_id, chat_id, "member")
        return await self.connect(user_id, chat_id)

    async def history(self, chat_id: str) -> list[Frame]:
        """All of the chat, page by page, oldest first."""
        await self.stored()
        bodies: list[bytes] = []
        after = None
        while True:
            page = await self.engine.messages.by_time(chat_id, None, None, ascending=True, after=after, limit=7)
            bodies += page.bodies
            if page.next is None:
                return [msgspec.json.decode(body) for body in bodies]
            after = page.next

    async def numbered(self, chat_id: str) -> list[int]:
        """The chat's numbers, as history gives them."""
        await self.stored()
        numbers: list[int] = []
        first = 1
        while True:
            page = await self.engine.messages.by_number(chat_id, first, 1 << 40, 7)
            numbers += [number for body in page.bodies if (number := read_back(body).sequence_number) is not None]
            if page.next is None:
                return numbers
            first = int(page.next)

    async def head(self, chat_id: str) -> int:
        return (await self.engine.numbers.heads([chat_id]))[chat_id].sequence

    async def dead_letters(self, queue: Queue | None = None) -> Sequence[DeadLetter]:
        return await self.engine.bus.dead_letters(queue)


class Recorder:
    """A consumer that writes down what it is handed, and fails or waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[Message]] = []
        self.in_flight: list[Message] = []
        #: A chat that was handed over while it was in flight.
        self.overtaken: list[str] = []
        #: Text -> how often a batch that holds it still fails.
        self.failures: dict[str, int] = {}
        #: Text -> what a batch that holds it waits for.
        self.holds: dict[str, asyncio.Event] = {}
        self._news = asyncio.Event()

    async def __call__(self, messages: Sequence[Message]) -> None:
        batch = list(messages)
        self.overtaken += {one.chat_id for one in batch} & {one.chat_id for one in self.in_flight}
        self.in_flight += batch
        self._news.set()
        try:
            for text, gate in list(self.holds.items()):
                if holds(batch, text):
                    await gate.wait()
            for text, left in self.failures.items():
                if left and holds(batch, text):
                    if len(batch) == 1:
                        self.failures[text] -= 1
                    raise RuntimeError(f"{text} is poison")
            await asyncio.sleep(0)
            self.batches.append(batch)
        finally:
            for message in batch:
                self.in_flight.remove(message)
            self._news.set()

    @property
    def messages(self) -> list[Message]:
        """Done, in the order in which they were."""
        return [message for batch in self.batches for message in batch]

    def contents(self, chat_id: str) -> list[object]:
        return [content_of(message) for message in self.messages if message.chat_id == chat_id]

    async def until(self, happened: Callable[[], bool], clock: ManualClock) -> None:
        async def wait() -> None:
            while not happened():
                self._news.clear()
                await self._news.wait()

        await clock.run(wait())


def holds(messages: Sequence[Message], text: str) -> bool:
    return any(text.encode() in message.body for message in messages)


def content_of(message: Message) -> object:
    return msgspec.json.decode(message.body)["payload"]["content"]


def poison(text: str) -> Consumer:
    """Fails for each batch that holds the text."""

    async def meddler(messages: Sequence[Message]) -> None:
        if holds(messages, text):
            raise RuntimeError(f"{text} is poison")

    return meddler


async def refusal_of(awaitable: Awaitable[object]) -> str:
    """The code of the refusal that it must end with."""
    try:
        await awaitable
    except Refusal as refusal:
        return refusal.code
    raise AssertionError("it was not refused")


async def _drop(messages: Sequence[Message]) -> None: ...


class _Tapped:
    """A Bus whose consumers can be meddled with, behind the number: some engines draw it only there."""

    def __init__(self, bus: Bus, numbers: Numbers, meddlers: Mapping[str, Sequence[Consumer]]) -> None:
        self._bus = bus
        self._numbers = numbers
        self._meddlers = meddlers

    def consume(self, queue: Queue, consumer: Consumer) -> None:
        async def tapped(messages: Sequence[Message]) -> None:
            if queue is WEBSOCKET_FIFO_QUEUE:
                messages = await self._numbers.number(messages)
            for meddler in tuple(self._meddlers.get(queue.name, ())):
                await meddler(messages)
            await consumer(messages)

        self._bus.consume(queue, tapped)

    async def publish(
        self, publications: Sequence[Publication], *, chained: bool = False
    ) -> Sequence[Receipt | Refusal]:
        return await self._bus.publish(publications, chained=chained)

    async def dead_letters(
        self, queue: Queue | None = None, *, letter_id: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]:
        return await self._bus.dead_letters(queue, letter_id=letter_id, limit=limit)

    async def replay(self, letter_ids: Sequence[str] | None) -> int:
        return await self._bus.replay(letter_ids)

    async def purge(self, letter_ids: Sequence[str] | None) -> int:
        return await self._bus.purge(letter_ids)

    async def depths(self) -> Sequence[Depth]:
        return await self._bus.depths()

    async def drain(self) -> None:
        await self._bus.drain()
