"""Gaps: what could not be posted is written on the subscription's row, and told before anything else is.

    a post that failed -> miss -> the row, and `#missed#<minute>`
    the next post | leave, subscribe anew | the minute's job -> tell -> `gap` -> the row is clear again

Rules:
- it is told first and struck out then: who dies in between tells it again, and twice is no harm;
- the minute's row stands before the mark, so that a mark without a next post is found.
"""

import asyncio
from typing import Final

import msgspec

from tocsin.clients import gap_frame
from tocsin.clock import Clock
from tocsin.engines.aws.apigateway_posts import ApiGatewayPosts, Outcome
from tocsin.engines.aws.minute_rows import MinuteRows, minute_of, missed_bucket
from tocsin.engines.aws.subscription_rows import SubscriptionRow, SubscriptionRows
from tocsin.metrics import Metrics

#: Minutes whose rows are looked at, at least. The present one is not over: a next post may still tell it.
_DUE: Final = range(-5, 0)


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """What one delivery could not bring to one subscription."""

    first: int | None = None
    last: int = 0
    unnumbered: int = 0

    @classmethod
    def of(cls, numbers: list[int | None]) -> "Missed":
        """None: a message without a number. They ascend."""
        numbered = [number for number in numbers if number is not None]
        return cls(
            first=numbered[0] if numbered else None,
            last=numbered[-1] if numbered else 0,
            unnumbered=len(numbers) - len(numbered),
        )

    @property
    def count(self) -> int:
        return self.unnumbered + (0 if self.first is None else self.last - self.first + 1)


class Gaps:
    def __init__(
        self, *, posts: ApiGatewayPosts, rows: SubscriptionRows, minutes: MinuteRows, clock: Clock, metrics: Metrics
    ) -> None:
        self._posts = posts
        self._rows = rows
        self._minutes = minutes
        self._clock = clock
        self._metrics = metrics

    async def miss(self, row: SubscriptionRow, missed: Missed, *, failures: int) -> None:
        await self.remember(row)
        await self._rows.miss(row, missed.first, missed.last, missed.unnumbered, failures=failures)
        if missed.count:
            self._metrics.count("drops", missed.count)

    async def remember(self, row: SubscriptionRow) -> None:
        """The minute's job will look at the row."""
        minute = minute_of(self._clock.now())
        await self._minutes.put(missed_bucket(minute), minute, f"{row.connection_id}#{row.chat_id}")

    async def tell(self, row: SubscriptionRow) -> Outcome:
        """What the row has missed as of now. It is the connection's turn (`ApiGatewayPosts.turn`)."""
        found = await self._rows.get(row.chat_id, row.connection_id, self._clock.now())
        if found is None or found.gen != row.gen or found.state == "revoked" or not found.has_missed:
            return "sent"
        frame = gap_frame(found.chat_id, found.missed_from, found.missed_to, found.unnumbered)
        outcome = await self._posts.post(found.connection_id, frame)
        if outcome == "sent":
            await self._rows.told(found)
        return outcome

    async def tell_in_turn(self, row: SubscriptionRow) -> Outcome:
        async with self._posts.turn(row.connection_id):
            return await self.tell(row)

    async def due(self, now: int) -> list[tuple[str, str, str]]:
        """What the minute's job looks at: bucket, connection and chat."""
        buckets = [missed_bucket(minute) for minute in await self._minutes.due(now, _DUE)]
        found = []
        for bucket, names in zip(buckets, await asyncio.gather(*map(self._minutes.names, buckets)), strict=True):
            for name in names:
                connection_id, _, chat_id = name.partition("#")
                found.append((bucket, connection_id, chat_id))
        return found

    async def done(self, bucket: str, connection_id: str, chat_id: str) -> None:
        await self._minutes.delete(bucket, f"{connection_id}#{chat_id}")
