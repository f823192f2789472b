"""Connection Handler: $connect, $disconnect, subscribe, unsubscribe, sync, refreshToken. (Seed: connection-handler/)

    gateway -> connect, subscribe, ... -> Connections, Numbers, Messages -> Clients.send

Rules:
- subscribe: registered -> head read -> replay up to it -> `subscribed` -> live; what is owed at that moment is replayed
  again, so between replay and live there is neither hole nor repeat;
- a replay is read from the store as the socket drains, and does not count as unsent;
- whatever is said of a chat is said while the subscription stands: nothing follows `revoked`.

Long because registering, replaying and going live are one promise.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tocsin.clients import LEEWAY_MILLISECONDS, Clients, Connection, Connections, Subscription, gap_frame
from tocsin.clock import Clock
from tocsin.errors import CloseCode, Refusal, forbidden
from tocsin.failpoints import Failpoints
from tocsin.identity import Identity, TokenCheck
from tocsin.message import MAX_MESSAGE_BYTES, read_back, rfc3339
from tocsin.tables import Head, Messages, Numbers

REPLAY_SLICE: Final = 200


class ReplayLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay may bring: of each chat, or, if they are `shared`, of all chats of one `sync`.

    `together`: so many chats of a `sync` are subscribed at once.
    """

    messages: int = 10_000
    size: int = 8 * 1024 * 1024
    shared: bool = False
    together: int = 1


class _Budget:
    """What is left of the limits."""

    __slots__ = ("messages", "size")

    def __init__(self, limits: ReplayLimits) -> None:
        self.messages = limits.messages
        self.size = limits.size


class _Resume(msgspec.Struct, frozen=True):
    """What a subscriber gets before it goes live: numbers `first`..head, a gap before them, and whether that is all."""

    first: int
    gap: tuple[int, int] | None
    recovered: bool


class ConnectionHandler:
    def __init__(
        self,
        *,
        connections: Connections,
        clients: Clients,
        numbers: Numbers,
        messages: Messages,
        tokens: TokenCheck,
        clock: Clock,
        failpoints: Failpoints,
        replay: ReplayLimits,
    ) -> None:
        self._connections = connections
        self._clients = clients
        self._numbers = numbers
        self._messages = messages
        self._tokens = tokens
        self._clock = clock
        self._failpoints = failpoints
        self._limits = replay

    async def connect(self, connection: Connection) -> None:
        await self._connections.open(connection)

    async def disconnect(self, connection_id: str) -> None:
        await self._connections.close([connection_id])

    async def subscribe_now(self, connection_id: str, chat_ids: Sequence[str]) -> Sequence[bytes]:
        """Subscribes without a replay; the `subscribed` frames, or errors, for the caller to send first."""
        await self._numbers.heads(chat_ids)
        subscriptions = await self._connections.subscribe(connection_id, chat_ids)
        await self._failpoints.reach("subscribe.registered")
        heads = await self._numbers.heads(chat_ids)
        frames = []
        for chat_id, subscription in zip(chat_ids, subscriptions, strict=True):
            if isinstance(subscription, Refusal):
                frames.append(error_frame(subscription, connection_id, None))
                continue
            head = heads[chat_id]
            while (owed := await self._connections.go_live(subscription, head.sequence)) is not None:
                head = msgspec.structs.replace(head, sequence=owed)  # it begins there: nothing before it is missed
            if await self._connections.is_live(connection_id, chat_id):
                frames.append(_subscribed(connection_id, chat_id, head, None, recovered=True))
            else:  # revoked meanwhile
                frames.append(error_frame(forbidden(chat_id), connection_id, None))
        return frames

    async def subscribe(
        self,
        connection_id: str,
        chat_id: str,
        *,
        last_sequence: int | None,
        epoch: str | None,
        request_id: str | None,
    ) -> None:
        """The missed messages, then `subscribed`, then live. Repeated without `last_sequence` it changes nothing."""
        chats, budget = {chat_id: last_sequence}, _Budget(self._limits)
        for refusal in (await self._subscribe(connection_id, chats, epoch, request_id, budget)).values():
            raise refusal

    async def sync(
        self, connection_id: str, chats: Mapping[str, int | Refusal | None], epoch: str | None, request_id: str | None
    ) -> None:
        """One chat after another, as by `subscribe`; one error for each that is refused, or was before it came here."""
        wanted: list[tuple[str, int | None]] = []
        for chat_id, last_sequence in chats.items():
            if isinstance(last_sequence, Refusal):
                await self._clients.send(connection_id, [error_frame(last_sequence, connection_id, request_id)])
            else:
                wanted.append((chat_id, last_sequence))
        budget, together = _Budget(self._limits), self._limits.together
        for at in range(0, len(wanted), together):
            if not self._limits.shared:
                budget = _Budget(self._limits)
            part = dict(wanted[at : at + together])
            for chat_id, refusal in (await self._subscribe(connection_id, part, epoch, request_id, budget)).items():
                refusal.chat_id = chat_id
                await self._clients.send(connection_id, [error_frame(refusal, connection_id, request_id)])

    async def _subscribe(
        self,
        connection_id: str,
        chats: Mapping[str, int | None],
        epoch: str | None,
        request_id: str | None,
        budget: _Budget,
    ) -> Mapping[str, Refusal]:
        """Those that are refused."""
        refused: dict[str, Refusal] = {}
        fresh: list[str] = []
        for chat_id, last_sequence in chats.items():
            try:
                if last_sequence is not None or not await self._confirm(connection_id, chat_id, request_id):
                    fresh.append(chat_id)
            except Refusal as refusal:
                refused[chat_id] = refusal
        try:
            subscriptions = await self._connections.subscribe(connection_id, fresh) if fresh else ()
        except Refusal as refusal:
            return refused | dict.fromkeys(fresh, refusal)
        for chat_id, subscription in zip(fresh, subscriptions, strict=True):
            if isinstance(subscription, Refusal):
                refused[chat_id] = subscription
                continue
            try:
                await self._bring_up(subscription, chats[chat_id], epoch, request_id, budget)
            except Exception as error:
                if await self._connections.stands(subscription):
                    await self._connections.leave(connection_id, chat_id)
                if not isinstance(error, Refusal):
                    raise
                refused[chat_id] = error
        return refused

    async def _confirm(self, connection_id: str, chat_id: str, request_id: str | None) -> bool:
        """Answers for a subscription that is live already; whether it is."""
        if not await self._connections.is_live(connection_id, chat_id):
            return False
        head = (await self._numbers.heads([chat_id]))[chat_id]
        if not await self._connections.is_live(connection_id, chat_id):
            return False  # revoked meanwhile
        frame = _subscribed(connection_id, chat_id, head, request_id, recovered=True)
        return await self._clients.send(connection_id, [frame])

    async def _bring_up(
        self,
        subscription: Subscription,
        last_sequence: int | None,
        epoch: str | None,
        request_id: str | None,
        budget: _Budget,
    ) -> None:
        connection_id, chat_id = subscription.connection_id, subscription.chat_id
        await self._failpoints.reach("subscribe.registered")
        head = (await self._numbers.heads([chat_id]))[chat_id]
        resume = _plan(head, last_sequence, epoch)
        if resume.first <= head.sequence:
            resume = await self._fit(chat_id, resume, head.sequence, budget)
        if resume.gap is not None:
            await self._say(subscription, [gap_frame(chat_id, *resume.gap)])
        rest, whole = await self._replay(subscription, resume.first, head.sequence, budget)
        frame = _subscribed(connection_id, chat_id, head, request_id, recovered=resume.recovered and whole)
        if not await self._say(subscription, [*rest, frame]):
            return
        delivered = head.sequence
        while (owed := await self._connections.go_live(subscription, delivered)) is not None:
            rest, _ = await self._replay(subscription, delivered + 1, owed, budget)
            await self._say(subscription, rest)
            delivered = owed

    async def _replay(
        self, subscription: Subscription, first: int, last: int, budget: _Budget
    ) -> tuple[list[bytes], bool]:
        """Sends these numbers from the store, slice by slice, as the socket takes them; whether that were all.

        The last slice is given back, to be sent together with what comes after it.
        """
        frames, whole = list[bytes](), True
        while first <= last:
            await self._failpoints.reach("subscribe.mid_replay")
            if frames and not await self._say(subscription, frames):
                return [], False
            if not await self._clients.drained(subscription.connection_id):
                return [], False
            page = await self._messages.by_number(subscription.chat_id, first, last, REPLAY_SLICE)
            end = last if page.next is None else int(page.next) - 1
            frames = _frames(subscription.chat_id, first, end, page.bodies)
            whole &= len(frames) == len(page.bodies)
            budget.messages -= len(page.bodies)
            budget.size -= sum(map(len, page.bodies))
            first = end + 1
        return frames, whole

    async def _say(self, subscription: Subscription, payloads: Sequence[bytes]) -> bool:
        """Unless it was revoked meanwhile."""
        if not await self._connections.stands(subscription):
            return False
        return await self._clients.send(subscription.connection_id, payloads)

    async def _fit(self, chat_id: str, resume: _Resume, last: int, budget: _Budget) -> _Resume:
        """The newest part that keeps within the budget; what is left out before it becomes a gap."""
        first, size = resume.first, budget.size
        if last - first < min(budget.messages, size // MAX_MESSAGE_BYTES):
            return resume
        lowest = max(first, last - budget.messages + 1)
        begin, end = last + 1, last
        while end >= lowest and size > 0:
            start = max(lowest, end - REPLAY_SLICE + 1)
            page = await self._messages.by_number(chat_id, start, end, REPLAY_SLICE)
            while page.next is not None:  # it has as many bytes as a page may have: the newest part of it first
                start = int(page.next)
                page = await self._messages.by_number(chat_id, start, end, REPLAY_SLICE)
            numbers = len(page.bodies)
            for index in range(numbers - 1, -1, -1):
                size -= len(page.bodies[index])
                if size < 0:
                    break
                begin = end - (numbers - 1 - index)
            if numbers < end - start + 1:
                break
            end = start - 1
        if begin == first:
            return resume
        return _Resume(begin, (first if resume.gap is None else resume.gap[0], begin - 1), False)

    async def unsubscribe(self, connection_id: str, chat_id: str, request_id: str | None) -> None:
        await self._connections.leave(connection_id, chat_id)
        await self._clients.send(connection_id, [_answer("unsubscribed", request_id, chatId=chat_id)])

    async def refresh_token(
        self, connection_id: str, current: Identity, token: str, request_id: str | None
    ) -> Identity:
        """The same user with a new token; a ticket's limit on chats stays."""
        identity = await self._tokens.check(token, self._clock.now())
        if identity.user_id != current.user_id:
            raise Refusal("forbidden", "The new token is another user's.", field="token")
        identity = msgspec.structs.replace(identity, chat_ids=current.chat_ids)
        await self._connections.refresh(connection_id, identity)
        await self._clients.send(connection_id, [_answer("ack", request_id)])
        return identity

    async def ping(self, connection_id: str, request_id: str | None) -> None:
        pong = _answer("pong", request_id, connectionId=connection_id, time=rfc3339(self._clock.now()).decode())
        await self._clients.send(connection_id, [pong])

    async def expire(self) -> None:
        """Once a second, or a minute: who is about to lose the token is told, who has lost it is closed. All at once,
        since each may take its time, and one that fails holds up nobody."""
        now = self._clock.now()
        expiring = await self._connections.expiring(now)
        for outcome in await asyncio.gather(*[self._expire(one, now) for one in expiring], return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _expire(self, connection: Connection, now: int) -> None:
        remaining = connection.identity.expires_at - now
        if remaining > 0:
            seconds = max(0, remaining - LEEWAY_MILLISECONDS) // 1000
            frame = b'{"type":"tokenExpiring","expiresIn":%d}' % seconds
            await self._clients.send(connection.connection_id, [frame])
        else:
            await self._clients.disconnect(connection.connection_id, CloseCode.UNAUTHORIZED, "token expired")


def _plan(head: Head, last_sequence: int | None, epoch: str | None) -> _Resume:
    """What a subscriber that has everything up to `last_sequence` gets, and whether it then has everything."""
    nothing = head.sequence + 1
    if last_sequence is None:
        return _Resume(nothing, None, True)
    if (epoch is not None and epoch != head.epoch) or last_sequence > head.sequence:
        return _Resume(nothing, None, False)
    first = last_sequence + 1
    if first < head.oldest:
        return _Resume(head.oldest, (first, head.oldest - 1), False)
    return _Resume(first, None, True)


def _subscribed(connection_id: str, chat_id: str, head: Head, request_id: str | None, *, recovered: bool) -> bytes:
    return (
        b'{"type":"subscribed","chatId":"%b","headSequence":%d,"oldestSequence":%d,"epoch":"%b","recovered":%b,%b"connectionId":"%b"}'
        % (
            chat_id.encode(),
            head.sequence,
            head.oldest,
            head.epoch.encode(),
            b"true" if recovered else b"false",
            b"" if request_id is None else b'"requestId":%b,' % msgspec.json.encode(request_id),
            connection_id.encode(),
        )
    )


def _frames(chat_id: str, first: int, last: int, bodies: Sequence[bytes]) -> list[bytes]:
    """The messages of these numbers, each hole among them told: they have expired since the head was read."""
    messages = [b'{"type":"message",' + body[1:] for body in bodies]
    if len(bodies) == last - first + 1:
        return messages
    frames, expected = [], first
    for body, message in zip(bodies, messages, strict=True):
        number = read_back(body).sequence_number
        assert number is not None
        if number > expected:
            frames.append(gap_frame(chat_id, expected, number - 1))
        frames.append(message)
        expected = number + 1
    if expected <= last:
        frames.append(gap_frame(chat_id, expected, last))
    return frames


def _answer(kind: str, request_id: str | None, **fields: str | int) -> bytes:
    answer: dict[str, str | int] = {"type": kind}
    if request_id is not None:
        answer["requestId"] = request_id
    return msgspec.json.encode(answer | fields)


def error_frame(refusal: Refusal, connection_id: str, request_id: str | None) -> bytes:
    """`requestId` is null where none was readable (docs/wire.md)."""
    frame: dict[str, str | None] = {
        "type": "error",
        "code": refusal.code,
        "message": refusal.message,
        "connectionId": connection_id,
        "requestId": request_id,
    }
    if refusal.field is not None:
        frame["field"] = refusal.field
    if refusal.chat_id is not None:
        frame["chatId"] = refusal.chat_id
    return msgspec.json.encode(frame)
