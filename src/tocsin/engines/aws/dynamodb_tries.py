"""Tries: how often a message was begun and has failed, outside the queue.

    SqsQueue -> begin (from the second receive on) -> the consumer -> failed -> bury

Rules:
- SQS's own count is none of tries: it also rises for the innocent of a batch, and for receives that were throttled;
- a message that is received once and done costs no write;
- `open` counts what was begun and has no verdict yet: who is killed each time leaves nothing else behind. The first
  receive is not in it, like a batch;
- a replay begins a count of its own, so that nothing needs to be reset.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tocsin.engines.aws.calls import Calls
from tocsin.engines.aws.rows import number, text

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

#: As long as a dead-letter queue keeps what it has.
_TTL_SECONDS: Final = 14 * 86_400
EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """`since` is when it was first counted, in milliseconds."""

    open: int = 0
    failed: int = 0
    since: int
    reason: str = ""
    is_dead: bool = False


class DynamodbTries:
    def __init__(self, dynamodb: "Calls[DynamoDBClient]", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    async def begin(self, letter_id: str, now: int) -> Tally:
        """Counts a try before it begins, because it may not end."""
        return await self._write(letter_id, now, counts={"open": 1})

    async def failed(self, letter_id: str, now: int, reason: str, *, was_begun: bool) -> Tally:
        """A verdict. Where AWS did it and said nothing, it is counted twice: then there is a try less."""
        counts = {"failed": 1} | ({"open": -1} if was_begun else {})
        return await self._write(letter_id, now, counts=counts, facts={"reason": text(reason)})

    async def succeeded(self, letter_id: str, now: int) -> None:
        """Also a verdict: a message that is handed over once more, though it was done, does not come to die of it."""
        await self._write(letter_id, now, counts={"open": -1})

    async def bury(self, letter_id: str, now: int) -> None:
        """It stands in the dead-letter queue; should its queue hand it over again, it is done with."""
        await self._write(letter_id, now, facts={"dead": {"BOOL": True}})

    async def _write(
        self,
        letter_id: str,
        now: int,
        *,
        counts: Mapping[str, int] = EMPTY,
        facts: "Mapping[str, AttributeValueTypeDef]" = EMPTY,
    ) -> Tally:
        sets = ["#ttl = :ttl", "#since = if_not_exists(#since, :since)", *[f"#{name} = :{name}" for name in facts]]
        adds = [f"#{name} :{name}" for name in counts]
        found = await self._dynamodb(
            lambda client: client.update_item(
                TableName=self._table,
                Key={"claim": text(f"try#{letter_id}")},
                UpdateExpression=f"SET {', '.join(sets)}" + (f" ADD {', '.join(adds)}" if adds else ""),
                ExpressionAttributeNames={f"#{name}": name for name in ("ttl", "since", *counts, *facts)},
                ExpressionAttributeValues={
                    ":ttl": number(now // 1000 + _TTL_SECONDS),
                    ":since": number(now),
                    **{f":{name}": number(count) for name, count in counts.items()},
                    **{f":{name}": value for name, value in facts.items()},
                },
                ReturnValues="ALL_NEW",
            )
        )
        item = found["Attributes"]
        return Tally(
            open=int(item["open"]["N"]) if "open" in item else 0,
            failed=int(item["failed"]["N"]) if "failed" in item else 0,
            since=int(item["since"]["N"]),
            reason=item["reason"]["S"] if "reason" in item else "",
            is_dead="dead" in item,
        )
