"""Functions beside the harness's own: other containers on the same stage, and what may happen to their calls.

AwsHarness (one container, with its pump) + container(...) -> AwsEngine on the same tables, topics and queues
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, Final

import msgspec
from botocore.exceptions import ConnectionClosedError

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import Client
from tocsin.bus import Receipt
from tocsin.engines.aws.calls import Calls
from tocsin.engines.aws.engine import AwsEngine
from tocsin.errors import Refusal
from tocsin.failpoints import Failpoints
from tocsin.message import Message, MessageIds, Publication


class Gate(Failpoints):
    """A failpoint at which one waits until the test lets him go on."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}=stall:0")
        self._name: Final = name
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def reach(self, name: str, messages: Sequence[Message] = ()) -> None:
        if name == self._name:
            self.reached.set()
            await self.opened.wait()


@contextmanager
def container(harness: AwsHarness, failpoints: str | Failpoints = "") -> Iterator[AwsEngine]:
    """Another one, at the same time."""
    made = Failpoints(failpoints) if isinstance(failpoints, str) else failpoints
    engine = AwsEngine(harness.settings, clock=harness.clock, failpoints=made, post_seconds=harness.post_seconds)
    try:
        yield engine
    finally:
        engine.close()


async def publish(engine: AwsEngine, publication: Publication) -> Receipt | Refusal:
    (answer,) = await engine.bus.publish([publication])
    return answer


def cut(calls: Calls[Any], operation: str, *, times: int = 1) -> None:
    """The next answers of this operation are lost on the way: AWS has done what was asked."""
    left = [times]

    def lose(**_: object) -> None:
        if left[0]:
            left[0] -= 1
            raise ConnectionClosedError(endpoint_url="http://lost")

    service = calls.client.meta.service_model.service_id.hyphenize()
    calls.client.meta.events.register(f"after-call.{service}.{operation}", lose)


def tap(calls: Calls[Any], operation: str) -> list[dict[str, Any]]:
    """The arguments of each call of this operation from now on."""
    seen: list[dict[str, Any]] = []

    def write_down(params: dict[str, Any], **_: object) -> None:
        seen.append(dict(params))

    service = calls.client.meta.service_model.service_id.hyphenize()
    calls.client.meta.events.register(f"before-parameter-build.{service}.{operation}", write_down)
    return seen


def meanwhile(calls: Calls[Any], operation: str, happens: Callable[[], object]) -> None:
    """Just before the next call of this operation goes out, something else happens."""
    left = [happens]

    def happen(**_: object) -> None:
        if left:
            left.pop()()

    service = calls.client.meta.service_model.service_id.hyphenize()
    calls.client.meta.events.register(f"before-call.{service}.{operation}", happen)


def item_of(harness: AwsHarness, table: str, **key: str) -> dict[str, Any]:
    """The row, its values without their types; empty: there is none."""
    found = harness.stage.services.dynamodb.get_item(
        TableName=harness.stage.tables[table], Key={name: {"S": value} for name, value in key.items()}
    )
    return {name: next(iter(value.values())) for name, value in found.get("Item", {}).items()}


def subscription_of(harness: AwsHarness, client: Client, chat_id: str = "c1") -> dict[str, Any]:
    """The row in SubscriptionTable."""
    return item_of(harness, "SubscriptionTable", chatId=chat_id, connectionId=client.connection_id)


def rows_of(harness: AwsHarness, chat_id: str) -> list[dict[str, Any]]:
    """The chat's rows in MessageStorageTable, as they lie there."""
    found = harness.stage.services.dynamodb.query(
        TableName=harness.stage.tables["MessageStorageTable"],
        KeyConditionExpression="chatId = :chat",
        ExpressionAttributeValues={":chat": {"S": chat_id}},
        ConsistentRead=True,
    )
    return found["Items"]


def stamped(publication: Publication, at: int) -> Publication:
    """As another container stamps it, whose clock says `at`."""
    message_id, timestamp = MessageIds(Random(at).getrandbits).draw(at)
    return msgspec.structs.replace(publication, message_id=message_id, timestamp=timestamp)
