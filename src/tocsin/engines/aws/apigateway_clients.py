"""Clients through API Gateway: what listeners hear, posted to all at once and to each in order.

    processor -> deliver -> owe (rows that replay) | lanes, one for each connection -> posts -> gaps
    connection_handler, chat_permission -> send, disconnect        the minute's job -> tell_missed

Rules:
- a slow or dead connection fails nobody: its post ends after POST_SECONDS, the whole of a delivery after
  FAN_OUT_SECONDS, and what was not posted by then is missed, which is told;
- after a post that failed nothing else is posted to that connection by this delivery: order is worth more than haste;
- a second failure in a row ends the connection. Having been busy is no failure of the connection's;
- 410 forgets a connection, but not one younger than YOUNG_MILLISECONDS: its upgrade may not have ended yet;
- a number below the chat's head was posted when it was drawn, and is not posted again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from tocsin.clients import Listeners, gap_frame
from tocsin.clock import Clock
from tocsin.engines.aws.apigateway_posts import POST_SECONDS, ApiGatewayPosts, Outcome
from tocsin.engines.aws.calls import Unreachable, deadline, until
from tocsin.engines.aws.dynamodb_connections import Audience, DynamodbConnections
from tocsin.engines.aws.gaps import Gaps, Missed
from tocsin.engines.aws.subscription_rows import SubscriptionRow, SubscriptionRows
from tocsin.errors import CloseCode
from tocsin.failpoints import Failpoints
from tocsin.message import Message
from tocsin.metrics import Metrics

log = logging.getLogger(__name__)

#: For one delivery to all, and for one slice of a replay to one.
FAN_OUT_SECONDS: Final = 10.0
SEND_SECONDS: Final = 10.0
YOUNG_MILLISECONDS: Final = 60_000
#: So many failures in a row end a connection.
FAILURES: Final = 2

#: API Gateway closes with a code of its own: ours, and why, stand in a last frame.
_CLOSING: Final = {CloseCode.UNAUTHORIZED: "token_expired"}


class _Lane:
    """What one connection is to hear by one delivery: a row for each chat, and frames (number or None) in order."""

    __slots__ = ("connection_id", "delivered", "frames", "outcome", "rows")

    def __init__(self, connection_id: str) -> None:
        self.connection_id: Final = connection_id
        self.rows: dict[str, SubscriptionRow] = {}
        self.frames: deque[tuple[str, int | None, bytes]] = deque()
        #: Of the last post.
        self.outcome: Outcome = "sent"
        self.delivered = 0

    def missed(self, chat_id: str) -> Missed:
        return Missed.of([number for chat, number, _ in self.frames if chat == chat_id])

    def is_young(self, now: int) -> bool:
        return any(now - row.connected_at < YOUNG_MILLISECONDS for row in self.rows.values())

    def is_failing(self) -> bool:
        return self.outcome == "failed" and any(row.failures + 1 >= FAILURES for row in self.rows.values())


class ApiGatewayClients:
    def __init__(
        self,
        *,
        posts: ApiGatewayPosts,
        gaps: Gaps,
        rows: SubscriptionRows,
        connections: DynamodbConnections,
        clock: Clock,
        metrics: Metrics,
        failpoints: Failpoints,
    ) -> None:
        self._posts = posts
        self._gaps = gaps
        self._rows = rows
        self._connections = connections
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints

    # -- to all who listen ---------------------------------------------------------------------------------------------

    async def deliver(self, audience: Mapping[str, Listeners], messages: Sequence[Message]) -> Collection[str]:
        fresh = []
        for message in messages:
            if self._failpoints.armed:
                await self._failpoints.reach("processor.mid_fanout", [message])
            if message.sequence_number is None or message.sequence_number >= message.position:
                fresh.append((message.chat_id, message.sequence_number, message.frame()))
        lanes = await self._fan_out(audience, fresh)
        if delivered := sum(lane.delivered for lane in lanes):
            self._metrics.count("deliveries", delivered)
        return await self._settle(lanes)

    async def skipped(self, messages: Sequence[Message]) -> None:
        audience = await self._connections.audience({message.chat_id for message in messages})
        gaps = []
        for message in messages:
            chat_id, number = message.chat_id, message.sequence_number
            gaps.append((chat_id, number, gap_frame(chat_id, number, number or 0, 0 if number else 1)))
        await self._connections.close(await self._settle(await self._fan_out(audience, gaps)))

    async def tell_missed(self) -> None:
        """The minute's job: who was told nothing since he missed something."""
        due = await self._gaps.due(self._clock.now())
        found = await asyncio.gather(
            *[self._rows.get(chat_id, connection_id, self._clock.now()) for _, connection_id, chat_id in due]
        )
        lanes: dict[str, _Lane] = {}
        for row in found:
            if row is not None and row.has_missed and row.state != "revoked":
                lanes.setdefault(row.connection_id, _Lane(row.connection_id)).rows[row.chat_id] = row
        await self._serve_all(lanes.values())
        await self._connections.close(await self._settle(lanes.values()))
        await asyncio.gather(*[self._gaps.done(*one) for one in due])

    async def _fan_out(
        self, audience: Mapping[str, Listeners], frames: Sequence[tuple[str, int | None, bytes]]
    ) -> Collection[_Lane]:
        last = {chat_id: number for chat_id, number, _ in frames if number is not None}
        lanes: dict[str, _Lane] = {}
        for chat_id in dict.fromkeys(chat_id for chat_id, _, _ in frames):
            listeners = audience.get(chat_id)
            if listeners is None:
                continue
            assert isinstance(listeners, Audience)
            for one in await self._owe(listeners.rows, last.get(chat_id)):
                lanes.setdefault(one.connection_id, _Lane(one.connection_id)).rows[chat_id] = one
        for lane in lanes.values():
            for chat_id, number, frame in frames:
                row = lane.rows.get(chat_id)
                if row is not None and row.takes(number):
                    lane.frames.append((chat_id, number, frame))
        due = [lane for lane in lanes.values() if lane.frames]
        await self._serve_all(due)
        return due

    async def _owe(self, rows: Sequence[SubscriptionRow], last: int | None) -> Sequence[SubscriptionRow]:
        """Numbers up to `last` are left to those that replay. The rows as they are then."""
        if last is None:
            return rows
        pending = [row for row in rows if row.state == "pending"]
        live = await asyncio.gather(*[self._rows.owe(row, last) for row in pending])
        changed = {row.connection_id: row for row in live if row is not None}
        return [changed.get(row.connection_id, row) for row in rows]

    async def _serve_all(self, lanes: Collection[_Lane]) -> None:
        """Returns when all are served, or time is over: near its end no post is begun any more."""
        moment = self._clock.monotonic() + FAN_OUT_SECONDS
        with until(min(moment, deadline(self._clock, otherwise=FAN_OUT_SECONDS)) - POST_SECONDS):
            outcomes = await asyncio.gather(*map(self._serve, lanes), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _serve(self, lane: _Lane) -> None:
        async with self._posts.turn(lane.connection_id):
            for row in lane.rows.values():
                if row.has_missed:
                    lane.outcome = await self._gaps.tell(row)
                    if lane.outcome != "sent":
                        return
            while lane.frames:
                if self._failpoints.armed:
                    await self._failpoints.reach("deliver.mid")
                lane.outcome = await self._posts.post(lane.connection_id, lane.frames[0][2])
                if lane.outcome != "sent":
                    return
                lane.frames.popleft()
                lane.delivered += 1

    async def _settle(self, lanes: Iterable[_Lane]) -> Collection[str]:
        """Writes down who missed what; the connections that are gone."""
        unserved = [lane for lane in lanes if lane.outcome != "sent"]
        gone = await asyncio.gather(*map(self._settle_one, unserved))
        return [lane.connection_id for lane, is_gone in zip(unserved, gone, strict=True) if is_gone]

    async def _settle_one(self, lane: _Lane) -> bool:
        if lane.outcome == "gone" and not lane.is_young(self._clock.now()):
            await asyncio.gather(*map(self._rows.delete, lane.rows.values()))
            return True
        if lane.is_failing() and await self._end(lane.connection_id):
            return True
        failures = int(lane.outcome == "failed")
        await asyncio.gather(
            *[self._gaps.miss(row, lane.missed(chat_id), failures=failures) for chat_id, row in lane.rows.items()]
        )
        return False

    async def _end(self, connection_id: str) -> bool:
        """False: API Gateway could not be asked in time."""
        log.warning("a connection does not take what is posted", extra={"connection": connection_id})
        try:
            with until(self._clock.monotonic() + POST_SECONDS):
                await self._posts.end(connection_id)
        except Unreachable:
            return False
        return True

    # -- to one --------------------------------------------------------------------------------------------------------

    async def send(self, connection_id: str, payloads: Sequence[bytes]) -> bool:
        """Raises Unreachable where API Gateway has had no time for it. Who does not take it, twice, is ended."""
        end = self._clock.monotonic() + SEND_SECONDS
        async with self._posts.turn(connection_id):
            for payload in payloads:
                with until(end):
                    outcome = await self._send(connection_id, payload)
                if outcome == "busy":
                    raise Unreachable(definite=False)
                if outcome != "sent":
                    break
            else:
                return True
        if outcome == "failed" and await self._end(connection_id):
            await self._connections.close([connection_id])
        return False

    async def _send(self, connection_id: str, payload: bytes) -> Outcome:
        outcome: Outcome = "failed"
        for _ in range(FAILURES):
            outcome = await self._posts.post(connection_id, payload)
            if outcome != "failed":
                break
        return outcome

    async def drained(self, connection_id: str) -> bool:
        """API Gateway takes what is posted, or does not; there is nothing to wait for."""
        return await self._connections.get(connection_id) is not None

    async def disconnect(self, connection_id: str, code: int, reason: str = "") -> bool:
        if await self._connections.get(connection_id) is None:
            return False
        frame = {
            "type": "error",
            "code": _CLOSING.get(code, "unavailable"),
            "message": f"The connection is closed: {reason}." if reason else "The connection is closed.",
            "connectionId": connection_id,
            "requestId": None,
            "close": code,
        }
        async with self._posts.turn(connection_id):
            await self._posts.post(connection_id, msgspec.json.encode(frame))
            await self._posts.end(connection_id)
        await self._connections.close([connection_id])
        return True
