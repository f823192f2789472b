"""What things cost on AWS, counted: the calls that functions make, and the capacity that DynamoDB says they used.

Real functions on the emulator. BatchGetItem's capacity, which it does not tell, is by DynamoDB's rule: a unit for each
key that is asked for.
"""

import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.gateways.lambda_events import Json
from tests.ministack import Stage
from tests.profiles.stand import AwsFunctions
from tocsin.cli.aws_costs import COSTS, MINUTE_READS, Unit
from tocsin.engines.aws.calls import Calls
from tocsin.engines.file_keys import FileKeys

pytestmark = pytest.mark.slow

WRITES: Final = {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"}
PAYLOAD: Final = {"chatId": "c1", "eventType": "chat", "content": "x" * 200}
FRAME: Final[Json] = {"action": "sendMessage", "requestId": "1", "messageType": "fifo", "payload": PAYLOAD}
PUBLISH: Final[Json] = {"messageType": "fifo", "payload": PAYLOAD}


class Meter:
    """What one engine has asked of AWS since it was last read."""

    def __init__(self, functions: AwsFunctions) -> None:
        self._functions = functions
        self._units: defaultdict[Unit, float] = defaultdict(float)
        #: Each answer of DynamoDB's: where a sum is not what it was, this says why.
        self.told: list[str] = []
        self._lock = threading.Lock()
        for calls in vars(functions.aws).values():
            if isinstance(calls, Calls):
                calls.client.meta.events.register("before-parameter-build", self._ask)
                calls.client.meta.events.register("after-call", self._count)

    def _ask(self, model: Any, params: dict[str, Any], **_: object) -> None:
        match model.name:
            case "BatchGetItem":
                keys = sum(len(one["Keys"]) for one in params["RequestItems"].values())
                self._add("dynamodb reads", keys)
            case "PublishBatch":
                fifo = params["TopicArn"].endswith(".fifo")
                self._add("sns fifo publishes" if fifo else "sns publishes", len(params["PublishBatchRequestEntries"]))
            case "PostToConnection":
                self._add("websocket messages", 1)
            case name if model.service_model.service_name == "dynamodb":
                assert name != "TransactGetItems"
                params["ReturnConsumedCapacity"] = "INDEXES"

    def _count(self, model: Any, parsed: dict[str, Any], **_: object) -> None:
        used = parsed.get("ConsumedCapacity", [])
        for one in used if isinstance(used, list) else [used]:
            self.told.append(f"{model.name} {one['TableName']} {one['CapacityUnits']:g}")
            self._add("dynamodb writes" if model.name in WRITES else "dynamodb reads", one["CapacityUnits"])

    def _add(self, unit: Unit, amount: float) -> None:
        with self._lock:
            self._units[unit] += amount

    async def read(self) -> dict[Unit, float]:
        """Once all is done."""
        await self._functions.settle()
        units, self._units = self._units, defaultdict(float)
        return dict(units)


@pytest.fixture
async def functions(stage: Stage, tmp_path: Path) -> AsyncIterator[AwsFunctions]:
    made = AwsFunctions(stage, FileKeys(tmp_path / "keys"))
    await made.start()
    await made.grant("alice", "c1", "owner")
    yield made
    await made.stop()


async def test_what_is_counted_is_what_the_table_says(functions: AwsFunctions) -> None:
    """Of what is not the first of its kind: a store, a chat and a user have cost something once."""
    await functions.open("alice", "c1", connection="first")
    await functions.say(FRAME, connection="first")
    await functions.settle()  # whoever reads first finds it: its chat's oldest number is written down then
    meter = Meter(functions)
    await functions.rest("message-retrieval", "GET", "/messages", query="chatId=c1", user="alice", scopes=())
    await meter.read()

    await functions.open("alice")
    await functions.say({"action": "sync", "chats": {"c1": 1}})
    opened = await meter.read()
    await functions.say({"action": "ping"})
    assert await meter.read() == {}
    await functions.say({"action": "refreshToken", "token": functions.token("alice", seconds=7000)})
    refreshed = await meter.read()
    await functions.minute()
    await meter.read()
    await functions.minute()
    assert await meter.read() == {"dynamodb reads": MINUTE_READS, "dynamodb writes": 1}

    await functions.say(FRAME)
    p2p = await meter.read()
    await functions.say(FRAME | {"messageDeduplicationId": "order-4711"})
    with_id = await meter.read()
    await functions.rest("a2pHttpPublisher", "POST", "/publish", PUBLISH)
    a2p = await meter.read()
    await functions.say(FRAME | {"messageType": "standard"})
    standard = await meter.read()
    await functions.rest("message-retrieval", "GET", "/messages", query="chatId=c1&limit=50", user="alice", scopes=())
    page = await meter.read()
    await functions.call("connection-handler", functions.dialect.disconnect())
    left = await meter.read()
    found = {
        "p2p": without_posts(p2p, 2),
        "a2p": without_posts(a2p, 2),
        "standard": without_posts(standard, 2),
        "with_id": {unit: more for unit, amount in without_posts(with_id, 2).items() if (more := amount - p2p[unit])},
        "deliveries": {"websocket messages": 1},
        "connects": {unit: opened.get(unit, 0) + left.get(unit, 0) for unit in opened | left},
        "connection_hours": refreshed,
        "pages": page,
    }
    assert found == COSTS, "\n".join(meter.told)


def without_posts(units: dict[Unit, float], listeners: int) -> dict[Unit, float]:
    """A message to so many listeners, without what each of them costs."""
    assert units["websocket messages"] == listeners
    return {unit: amount for unit, amount in units.items() if unit != "websocket messages"}
