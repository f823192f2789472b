"""Each statement of each role is needed: its probe works with the role as it is, and fails when the statement is gone.

    statement -> probe on the deployed stage -> worked?      without(function, statement) -> probe -> refused

Rule: a statement has a probe here, or stands in UNPROBED with the reason why no emulator shows it.
"""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from typing import Any, Final
from uuid import uuid4

import boto3
import pytest
from websockets.exceptions import InvalidStatus

from deploy.aws.functions import FUNCTIONS
from tests.deploy.doors import Listener, Rest, eventually, fifo, listen
from tests.deploy.faults import failing, nobody_taking, without
from tests.deploy.people import Person
from tests.deploy.stage import Deployed
from tests.gateways.lambda_events import Ministack
from tocsin.engines.aws.bus_format import message_of, write
from tocsin.engines.aws.minute_rows import expiry_bucket, minute_of
from tocsin.engines.aws.settings import Function
from tocsin.message import Publication

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Statement = tuple[Function, str]
POLLER: Final = "the emulator's poller asks nobody; what our own code does with it is a shorter wait, and only logged"
LOGS: Final = "the emulator writes logs itself"
UNPROBED: Final[dict[Statement, str]] = {
    **{(function.name, "WriteLogs"): LOGS for function in FUNCTIONS},
    ("processor", "Consume"): POLLER,
    ("message-storage", "Consume"): POLLER,
}


class Stage:
    """What the probes have at hand: alice with a WebSocket in a chat of two messages, and a back end."""

    def __init__(self, deployed: Deployed, back_end: Rest, alice: Person, bob: Person, chat: str) -> None:
        self.deployed: Final = deployed
        self.back_end: Final = back_end
        self.alice: Final = alice
        self.bob: Final = bob
        self.chat: Final = chat
        self.as_alice: Final = Rest(deployed, alice.access_token)
        self.socket: Listener
        self.connection_id = ""

    def invoke(self, function: Function, event: dict[str, Any]) -> Any:
        """What the function hands back; None where it failed."""
        with closing(boto3.client("lambda")) as functions:
            answer = functions.invoke(FunctionName=function, Payload=json.dumps(event).encode())
            result = json.loads(answer["Payload"].read() or b"null")
            return None if "FunctionError" in answer else result

    def put(self, table: str, item: dict[str, Any]) -> None:
        with closing(boto3.client("dynamodb")) as dynamodb:
            dynamodb.put_item(TableName=table, Item=item)

    def row(self, table: str, key: dict[str, Any]) -> dict[str, Any]:
        with closing(boto3.client("dynamodb")) as dynamodb:
            return dict(dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {}))

    def body(self, *, ordered: bool = True) -> str:
        """Of a message on the bus that nobody has seen."""
        return write(
            message_of(
                Publication(
                    message_id=(name := str(_uuid7())),
                    timestamp=_milliseconds(name),
                    sender_id="prober",
                    chat_id=self.chat,
                    target_channel="WebSocket",
                    message_type="fifo" if ordered else "standard",
                    payload=json.dumps({"chatId": self.chat, "eventType": "probe", "content": 1}).encode(),
                )
            )
        )

    def consume(self, function: Function, queue: str, body: str, receives: int = 1) -> bool:
        """Whether the function has done with the message."""
        event = Ministack().batch(queue, body, receives=receives)
        event["Records"][0]["messageId"] = str(uuid4())
        return bool(self.invoke(function, event) == {"batchItemFailures": []})

    async def answers(self, kind: str, **frame: object) -> bool:
        """Whether a frame is answered with that type, and not with an error."""
        request_id = str(uuid4())
        await self.socket.say(requestId=request_id, **frame)
        while True:
            try:
                answer = json.loads(await self.socket.socket.recv())
            except json.JSONDecodeError:
                return False  # the emulator hands on what a function died of, as text
            if answer.get("type") == "error" or "type" not in answer:
                return False
            if answer["type"] == kind:
                return True

    async def opens(self, **query: str) -> bool:
        try:
            async with listen(self.deployed, **query):
                return True
        except InvalidStatus:
            return False


def _uuid7() -> str:
    now = time.time_ns() // 1_000_000
    text = f"{now:012x}7{uuid4().hex[13:]}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-a{text[17:20]}-{text[20:]}"


def _milliseconds(message_id: str) -> int:
    return int(message_id.replace("-", "")[:12], 16)


@pytest.fixture
async def stage(deployed: Deployed, back_end: Rest, alice: Person, bob: Person, chat: str) -> AsyncIterator[Stage]:
    made = Stage(deployed, back_end, alice, bob, chat)
    for content in (1, 2):
        back_end.publish(chat, content)
    async with listen(deployed, token=alice.access_token, chatId=chat) as socket:
        made.socket = socket
        await socket.say(action="ping", requestId="p")
        made.connection_id = (await socket.hear("pong"))["connectionId"]
        eventually(lambda: back_end.numbered(chat, 2))
        yield made


PROBES: Final[dict[Statement, Callable[[Stage], Awaitable[bool]]]] = {}


def probes(
    *statements: Statement,
) -> Callable[[Callable[[Stage], Awaitable[bool]]], Callable[[Stage], Awaitable[bool]]]:
    def put(probe: Callable[[Stage], Awaitable[bool]]) -> Callable[[Stage], Awaitable[bool]]:
        PROBES.update(dict.fromkeys(statements, probe))
        return probe

    return put


# -- the upgrade, and frames -------------------------------------------------------------------------------------------


@probes(
    ("websocket-authorizer", "ReadRoles"),
    ("connection-handler", "KeepConnections"),
    ("connection-handler", "CheckRoles"),
    ("connection-handler", "KeepSubscriptions"),
)
async def who_has_a_role_is_let_in(stage: Stage) -> bool:
    return await stage.opens(token=stage.alice.access_token, chatId=stage.chat)


@probes(
    ("websocket-authorizer", "RedeemTickets"),
    ("connection-handler", "ReadTickets"),
    ("chat-permission", "OfferTickets"),
)
async def a_ticket_opens(stage: Stage) -> bool:
    status, answer = stage.as_alice("POST", "/tickets", {"chatIds": [stage.chat]})
    return status == 200 and await stage.opens(ticket=answer["ticket"], chatId=stage.chat)


@probes(("connection-handler", "ReadHeads"), ("connection-handler", "ReadIndex"))
async def a_sync_replays(stage: Stage) -> bool:
    return await stage.answers("subscribed", action="sync", chats={stage.chat: 0})


@probes(("connection-handler", "NoteOldestAndEpoch"))
async def a_sync_notes_the_oldest_number(stage: Stage) -> bool:
    forget_oldest(stage)
    return await a_sync_replays(stage)


@probes(("connection-handler", "ReadTable"))
async def a_sync_replays_while_the_index_lags(stage: Stage) -> bool:
    with failing("connection-handler", "index.lag=raise"):
        return await a_sync_replays(stage)


@probes(("connection-handler", "PostToConnections"))
async def a_replay_is_posted(stage: Stage) -> bool:
    before = stage.connection_id
    event = Ministack().message(
        json.dumps({"action": "sync", "chats": {stage.chat: None}}), route="sync", connection=before
    )
    result = stage.invoke("connection-handler", event)
    return result is not None and "error" not in str(result.get("body"))


@probes(("connection-handler", "EndConnections"))
async def whose_token_has_ended_is_ended(stage: Stage) -> bool:
    """A connection that API Gateway knows, and that is none of the tests' otherwise."""
    async with listen(stage.deployed, token=stage.alice.access_token) as other:
        await other.say(action="ping", requestId="p")
        name = (await other.hear("pong"))["connectionId"]
        now = time.time_ns() // 1_000_000
        row = stage.row("ConnectionTable", {"connectionId": {"S": name}})
        stage.put("ConnectionTable", row | {"expiresAt": {"N": str(now - 1000)}})
        minute = minute_of(now)
        stage.put(
            "SubscriptionTable",
            {
                "chatId": {"S": expiry_bucket(minute, name)},
                "connectionId": {"S": name},
                "ttl": {"N": str(now // 1000 + 3600)},
            },
        )
        return bool(stage.invoke("connection-handler", Ministack().minute()) == {})


@probes(
    ("p2pWebSocketPublisher", "Publish"),
    ("p2pWebSocketPublisher", "ClaimIds"),
    ("p2pWebSocketPublisher", "ReadRoles"),
    ("p2pWebSocketPublisher", "ReadConnection"),
)
async def a_frame_is_published(stage: Stage) -> bool:
    frame = fifo(stage.chat, "probe") | {"messageDeduplicationId": str(uuid4())}
    return await stage.answers("ack", action="sendMessage", **frame)


@probes(("a2pHttpPublisher", "Publish"), ("a2pHttpPublisher", "ClaimIds"), ("a2pHttpPublisher", "ReadRoles"))
async def a_call_is_published(stage: Stage) -> bool:
    body = fifo(stage.chat, "probe") | {"messageDeduplicationId": str(uuid4())}
    return stage.as_alice("POST", "/publish", body)[0] == 202


# -- queues ------------------------------------------------------------------------------------------------------------


@probes(
    ("processor", "Number"),
    ("processor", "StoreNumbered"),
    ("processor", "ServeAudience"),
    ("processor", "PostToConnections"),
)
async def a_message_is_numbered_and_delivered(stage: Stage) -> bool:
    return stage.consume("processor", "WebSocketFifoQueue.fifo", stage.body())


@probes(("processor", "CountTries"))
async def a_second_try_is_counted(stage: Stage) -> bool:
    return stage.consume("processor", "WebSocketFifoQueue.fifo", stage.body(), receives=2)


@probes(("processor", "BuryDeadLetters"))
async def what_failed_too_often_is_buried(stage: Stage) -> bool:
    return buries(stage, "processor", "WebSocketStandardQueue")


@probes(("message-storage", "BuryDeadLetters"))
async def what_cannot_be_stored_is_buried(stage: Stage) -> bool:
    return buries(stage, "message-storage", "MessageStorageQueue")


def buries(stage: Stage, function: Function, queue: str) -> bool:
    """What no version of ours can read."""
    event = Ministack().batch(queue, "not ours", receives=2)
    event["Records"][0]["messageId"] = str(uuid4())
    results = [stage.invoke(function, event) for _ in range(3)]
    return bool(results[-1] == {"batchItemFailures": []})


@probes(("processor", "ForgetConnections"))
async def a_gone_connection_is_forgotten(stage: Stage) -> bool:
    """API Gateway does not know it, and it stands in both tables."""
    here = {"connectionId": {"S": stage.connection_id}}
    for table, key in (("ConnectionTable", {}), ("SubscriptionTable", {"chatId": {"S": stage.chat}})):
        row = stage.row(table, key | here)
        row |= {"connectionId": {"S": "gone"}, "connectedAt": {"N": str(int(row["connectedAt"]["N"]) - 61_000)}}
        stage.put(table, row)
    return stage.consume("processor", "WebSocketFifoQueue.fifo", stage.body())


@probes(("processor", "EndConnections"))
async def who_takes_nothing_twice_is_ended(stage: Stage) -> bool:
    async with listen(stage.deployed, token=stage.alice.access_token, chatId=stage.chat):
        with nobody_taking("processor"):
            return all(stage.consume("processor", "WebSocketFifoQueue.fifo", stage.body()) for _ in range(2))


@probes(("message-storage", "Store"))
async def a_message_is_stored(stage: Stage) -> bool:
    return stage.consume("message-storage", "MessageStorageQueue", stage.body(ordered=False))


@probes(("message-storage", "CountTries"))
async def a_second_try_at_storing_is_counted(stage: Stage) -> bool:
    return stage.consume("message-storage", "MessageStorageQueue", stage.body(ordered=False), receives=2)


# -- reading, and who may what -----------------------------------------------------------------------------------------


@probes(("message-retrieval", "ReadRoles"), ("message-retrieval", "ReadHeads"), ("message-retrieval", "ReadTable"))
async def history_is_read_by_time(stage: Stage) -> bool:
    return stage.as_alice("GET", f"/messages?chatId={stage.chat}")[0] == 200


@probes(("message-retrieval", "ReadIndex"))
async def history_is_read_by_number(stage: Stage) -> bool:
    return stage.as_alice("GET", f"/messages?chatId={stage.chat}&fromSequence=1")[0] == 200


@probes(("message-retrieval", "NoteOldestAndEpoch"))
async def a_reader_notes_the_oldest_number(stage: Stage) -> bool:
    forget_oldest(stage)
    return await history_is_read_by_time(stage)


@probes(("message-retrieval", "ReadCursorKey"))
async def a_new_process_has_the_key_of_cursors(stage: Stage) -> bool:
    with failing("message-retrieval", ""):
        return await history_is_read_by_time(stage)


@probes(("chat-permission", "ReadCursorKey"))
async def a_new_process_of_permissions_has_it_too(stage: Stage) -> bool:
    with failing("chat-permission", ""):
        return await a_grant_is_made(stage)


@probes(("chat-permission", "KeepRoles"))
async def a_grant_is_made(stage: Stage) -> bool:
    grant = {"userId": str(uuid4()), "chatId": stage.chat, "role": "reader"}
    return stage.as_alice("POST", "/permissions", grant)[0] == 200


@probes(("chat-permission", "ListChat"))
async def a_chats_roles_are_listed(stage: Stage) -> bool:
    return stage.as_alice("GET", f"/permissions?chatId={stage.chat}")[0] == 200


@probes(
    ("chat-permission", "EndSubscriptions"),
    ("chat-permission", "ReadHeads"),
    ("chat-permission", "NoteOldestAndEpoch"),
    ("chat-permission", "ReadIndex"),
    ("chat-permission", "PostToConnections"),
)
async def a_listener_is_revoked(stage: Stage) -> bool:
    """The oldest number is looked for anew, as it is when the one known may have expired."""
    stage.back_end.grant(stage.bob.user_id, stage.chat)
    async with listen(stage.deployed, token=stage.bob.access_token, chatId=stage.chat):
        forget_oldest(stage)
        return stage.as_alice("DELETE", f"/permissions?userId={stage.bob.user_id}&chatId={stage.chat}")[0] == 200


@probes(("chat-permission", "EndConnections"), ("chat-permission", "ForgetConnections"))
async def who_does_not_take_a_revocation_is_ended(stage: Stage) -> bool:
    with nobody_taking("chat-permission"):
        return await a_listener_is_revoked(stage)


@probes(("chat-permission", "ReadTable"))
async def a_listener_is_revoked_while_the_index_lags(stage: Stage) -> bool:
    with failing("chat-permission", "index.lag=raise"):
        return await a_listener_is_revoked(stage)


def forget_oldest(stage: Stage) -> None:
    with closing(boto3.client("dynamodb")) as dynamodb:
        dynamodb.delete_item(TableName="SequenceCounterTable", Key={"scope": {"S": f"oldest#{stage.chat}"}})


@pytest.mark.parametrize(
    ("function", "sid"), [pytest.param(*statement, id="-".join(statement)) for statement in sorted(PROBES)]
)
async def test_a_probe_fails_without_its_statement(stage: Stage, function: Function, sid: str) -> None:
    probe = PROBES[function, sid]
    assert await probe(stage), "with the role as it is"
    with without(function, sid):
        assert not await probe(stage), f"{probe.__name__} does not need it"


def test_each_statement_has_a_probe_or_a_reason() -> None:
    statements = {(each.name, sid) for each in FUNCTIONS for sid in ("WriteLogs", *(one.sid for one in each.allows))}
    assert set(PROBES) | set(UNPROBED) == statements
    assert not set(PROBES) & set(UNPROBED)
