"""`tocsin aws …` and `tocsin dlq … --aws`, on a stage of the emulator; what the commands see is what functions left."""

import asyncio
import functools
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import boto3
import msgspec
import pytest

from tests.conformance.aws import AwsHarness
from tests.conformance.harness import identity, poison
from tests.ministack import Stage
from tests.test_cli import Done, environment, misused, tocsin
from tocsin.engines.aws.bus_format import message_of
from tocsin.engines.aws.engine import AwsEngine
from tocsin.engines.aws.erasure import NOBODY, PAGE
from tocsin.engines.aws.restoration import EMPTY
from tocsin.engines.aws.schema import TABLES
from tocsin.engines.file_keys import FileKeys
from tocsin.topology import WEBSOCKET_FIFO_QUEUE

pytestmark = pytest.mark.slow

ALICE: Final = "alice"


@pytest.fixture
async def stand(stage: Stage, tmp_path: Path) -> AsyncIterator[AwsHarness]:
    harness = AwsHarness(stage, FileKeys(tmp_path / "keys"))
    await harness.start()
    yield harness
    await harness.stop()


async def command(stand: AwsHarness, *arguments: str) -> Done:
    """In a thread, as it would run in a process of its own: it has a loop of its own."""
    return await asyncio.to_thread(tocsin, *arguments, "--prefix", f"{stand.stage.prefix}-", "--json")


async def done(stand: AwsHarness, *arguments: str) -> Any:
    ended = await command(stand, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return msgspec.json.decode(ended.stdout)


async def erase(stand: AwsHarness, *arguments: str) -> dict[str, int]:
    """What was found."""
    counts: dict[str, int] = (await done(stand, "aws", "erase", *arguments))["counts"]
    return {kind: count for kind, count in counts.items() if count}


def rows(stand: AwsHarness, table: str) -> str:
    """All that a table holds, as text."""
    return msgspec.json.encode(
        stand.stage.services.dynamodb.scan(TableName=stand.stage.tables[table])["Items"]
    ).decode()


# -- erase -------------------------------------------------------------------------------------------------------------


async def test_a_chats_messages_are_overwritten_and_their_numbers_stay(stand: AwsHarness) -> None:
    await stand.publish_many("c1", ["secret one", "secret two"])
    await stand.publish("c1", "secret three", id="order-4711")
    await stand.publish("c2", "of another chat")
    await stand.settle()
    before = await stand.history("c1")
    assert await erase(stand, "--chat", "c1", "--yes") == {"messages": 3}
    after = await stand.history("c1")
    assert [one["sequenceNumber"] for one in after] == [1, 2, 3]
    assert [one["messageId"] for one in after] == [one["messageId"] for one in before]
    assert {msgspec.json.encode(one["payload"]) for one in after} == {
        b'{"chatId":"c1","eventType":"erased","content":null}'
    }
    assert {one["senderId"] for one in after} == {NOBODY}
    kept = rows(stand, "MessageStorageTable")
    assert "secret" not in kept
    assert "order-4711" not in kept
    assert "of another chat" in kept
    await stand.publish("c1", "and on")
    await stand.settle()
    assert await stand.numbered("c1") == [1, 2, 3, 4]


async def test_what_was_erased_is_not_written_again_by_a_queue_that_still_held_it(stand: AwsHarness) -> None:
    message = message_of(stand.publication("c1", "secret"))
    await stand.engine.messages.store([message])
    await erase(stand, "--chat", "c1", "--yes")
    await stand.engine.numbers.number([message])
    await stand.engine.messages.store([message])
    assert await stand.numbered("c1") == [1]
    assert "secret" not in rows(stand, "MessageStorageTable")


async def test_a_user_is_forgotten_in_every_chat_and_nobody_else_is(stand: AwsHarness) -> None:
    for chat in ("c1", "c2"):
        await stand.grant("carol", chat, "owner")
        await stand.grant(ALICE, chat, "member")
        await stand.publish(chat, "by alice", sender=ALICE)
        await stand.publish(chat, "by carol", sender="carol")
    await stand.publish(f"user:{ALICE}", "to alice", sender="carol")
    await stand.connect(ALICE, "c1", "c2")
    carol = await stand.connect("carol", "c1")
    for user in (ALICE, "carol"):
        await stand.engine.tickets.offer(identity(user), stand.clock.now())
    await stand.settle()
    found = await erase(stand, "--user", ALICE, "--yes")
    assert found == {"permissions": 2, "connections": 1, "subscriptions": 2, "tickets": 1, "messages": 3}
    for table in ("ConnectionTable", "UserChatPermissions", "MessageStorageTable", "SubscriptionTable"):
        assert f'"{ALICE}"' not in rows(stand, table)
    assert [one["senderId"] for one in await stand.history("c1")] == [NOBODY, "carol"]
    await stand.publish("c1", "on", sender="carol")
    await stand.settle()
    assert stand.numbers(carol, "c1") == [3]


async def test_erasing_twice_finds_nothing_more_and_a_dry_run_changes_nothing(stand: AwsHarness) -> None:
    await stand.publish("c1", "secret", sender=ALICE)
    await stand.settle()
    assert await erase(stand, "--user", ALICE, "--dry-run") == {"messages": 1}
    assert "secret" in rows(stand, "MessageStorageTable")
    assert await erase(stand, "--user", ALICE, "--yes") == {"messages": 1}
    assert await erase(stand, "--user", ALICE, "--yes") == {}


async def test_a_chats_last_owner_stays_and_the_operator_is_told(stand: AwsHarness) -> None:
    await stand.grant(ALICE, "c1", "owner")
    await stand.grant("carol", "c2", "owner")
    await stand.grant(ALICE, "c2", "owner")
    ended = await command(stand, "aws", "erase", "--user", ALICE, "--yes")
    assert ended.returncode == 1
    assert "alice is the last owner of c1" in ended.stderr
    assert await stand.engine.permissions.roles([(ALICE, "c1"), (ALICE, "c2")]) == ["owner", None]


async def test_who_was_granted_something_by_the_user_keeps_it(stand: AwsHarness) -> None:
    await stand.grant(ALICE, "c1", "owner")
    await stand.engine.permissions.grant(identity(ALICE), "carol", "c1", "owner", stand.clock.now())
    assert await erase(stand, "--user", ALICE, "--yes") == {"permissions": 1, "grants": 1}
    (row,) = (await stand.engine.permissions.of_chat("c1", after=None, limit=10)).permissions
    assert (row.user_id, row.role, row.granted_by) == ("carol", "owner", NOBODY)


async def test_a_dead_letter_of_an_erased_chat_is_purged(stand: AwsHarness) -> None:
    stand.meddle(WEBSOCKET_FIFO_QUEUE, poison("secret"))
    await stand.publish("c1", "secret")
    await stand.publish("c2", "secret too")
    await stand.settle()
    assert (await erase(stand, "--chat", "c1", "--yes"))["letters"] == 1
    (letter,) = await stand.dead_letters()
    assert letter.chat_id == "c2"


async def test_a_run_that_is_ended_says_where_it_stood_and_goes_on_there(
    stand: AwsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second page cannot be read."""
    count = PAGE + 3
    await stand.engine.messages.store([_stored(stand, f"secret {index}") for index in range(count)])
    make, reads = boto3.client, 0

    def refused(**_: object) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise RuntimeError("the terminal was closed")

    def client(name: str, **more: Any) -> Any:
        made = make(name, **more)  # type: ignore[call-overload]
        if name == "dynamodb":
            made.meta.events.register("before-call.dynamodb.Query", refused)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(boto3, "client", client)
        ended = await command(stand, "aws", "erase", "--chat", "c1", "--yes")
    assert ended.returncode == 1
    place = ended.stderr.splitlines()[0].rpartition(" ")[2]
    assert place.startswith("c1/")
    assert await erase(stand, "--chat", "c1", "--yes", "--from", place) == {"messages": 3}
    assert "secret" not in rows(stand, "MessageStorageTable")


def _stored(stand: AwsHarness, content: str) -> Any:
    return message_of(stand.publication("c1", content, kind="standard", numbered=False))


def test_nothing_is_erased_before_somebody_has_said_so() -> None:
    assert "--yes" in misused("aws", "erase", "--chat", "c1")
    assert "--user / --chat" in misused("aws", "erase", "--yes")
    assert "--user / --chat" in misused("aws", "erase", "--yes", "--user", "a", "--chat", "b")


# -- dead letters ------------------------------------------------------------------------------------------------------


async def test_dead_letters_on_aws_are_listed_shown_replayed_and_purged(stand: AwsHarness) -> None:
    cure = stand.meddle(WEBSOCKET_FIFO_QUEUE, poison("poison"))
    await stand.publish("c1", "poison")
    await stand.publish("c1", "fine")
    await stand.publish("c2", "poison")
    await stand.settle()
    first = await done(stand, "dlq", "list", "--aws", "--limit", "1")
    assert (first["queue"], first["chatId"], first["attempts"]) == (WEBSOCKET_FIFO_QUEUE.name, "c1", 3)
    assert (await done(stand, "dlq", "show", first["letterId"], "--aws"))["body"]["payload"]["content"] == "poison"
    cure()
    assert await done(stand, "dlq", "replay", first["letterId"], "--aws") == {"count": 1}
    await stand.settle()
    assert {one["payload"]["content"] for one in await stand.history("c1")} == {"poison", "fine"}
    (other,) = await stand.dead_letters()
    assert await done(stand, "dlq", "purge", other.letter_id, "--aws") == {"count": 1}
    assert await stand.dead_letters() == []


async def test_a_stage_that_is_not_there_is_one_sentence(stand: AwsHarness) -> None:
    ended = await asyncio.to_thread(tocsin, "dlq", "list", "--aws", "--prefix", "nowhere-")
    assert ended.returncode == 1
    assert ended.stderr.startswith("tocsin: There is no queue nowhere-WebSocketFifoQueue.fifo in us-east-1")
    assert "--aws" in misused("dlq", "list", "--prefix", "dev-")
    assert "--data" in misused("dlq", "list", "--aws", "--data", "data")


def test_without_boto3_the_commands_say_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "tocsin", "dlq", "list", "--aws"],
        env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == "tocsin: This needs the packages for AWS (boto3 is missing): pip install 'tocsin[aws]'\n"


def test_who_has_no_credentials_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    kept = {name: value for name, value in environment().items() if not name.startswith("AWS_")}
    ended = subprocess.run(
        [sys.executable, "-m", "tocsin", "dlq", "list", "--aws", "--region", "eu-west-1"],
        env=kept | {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "tocsin: AWS: Unable to locate credentials\n")


def test_no_command_imports_boto3_before_it_needs_it() -> None:
    code = "import sys, tocsin.cli; print([name for name in ('boto3', 'botocore') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


# -- restore -----------------------------------------------------------------------------------------------------------


class Restored:
    """The service on the restored tables; it is not the one that published."""

    def __init__(self, stand: AwsHarness, prefix: str) -> None:
        tables = {table.variable.lower(): prefix + table.name for table in TABLES}
        self.engine = AwsEngine(stand.stage.settings(**tables), clock=stand.clock)
        self.protocols = self.engine.protocols

    async def numbers(self, chat_id: str) -> list[tuple[int, str]]:
        """The chat's history by number: number and eventType."""
        page = await self.protocols.messages.by_number(chat_id, 1, 1 << 40, 100)
        found = [msgspec.json.decode(body) for body in page.bodies]
        return [(one["sequenceNumber"], one["payload"]["eventType"]) for one in found]


def meddle(stand: AwsHarness, chat_id: str, sequence: int) -> None:
    """As if the counter's table had been copied a little earlier or later than the messages'."""
    stand.stage.services.dynamodb.update_item(
        TableName=stand.stage.tables["SequenceCounterTable"],
        Key={"scope": {"S": chat_id}},
        UpdateExpression="SET #sequence = :sequence",
        ExpressionAttributeNames={"#sequence": "sequence"},
        ExpressionAttributeValues={":sequence": {"N": str(sequence)}},
    )


async def test_a_restored_store_has_its_numbers_and_a_new_epoch_and_no_claims(stand: AwsHarness) -> None:
    await stand.grant(ALICE, "c1", "owner")
    await stand.publish_many("c1", ["one", "two", "three"])
    for chat in ("lags", "leads", "fine"):
        await stand.publish(chat, "one", id="order-4711")
        await stand.publish(chat, "two")
    await stand.connect(ALICE, "c1")
    await stand.settle()
    before = await stand.engine.numbers.heads(["c1"])
    meddle(stand, "lags", 1)
    meddle(stand, "leads", 4)
    into = f"{stand.stage.prefix}-restored-"
    told = await done(stand, "aws", "restore", "--to", "2026-01-31T09:00:00Z", "--into", into)
    epoch = told["repaired"].pop("epoch")
    assert told == {"paused": 0, "repaired": {"chats": 4, "raised": 1, "filled": 2}}
    restored = Restored(stand, into)
    heads = await restored.protocols.numbers.heads(["c1", "lags", "leads", "fine"])
    assert {chat: head.sequence for chat, head in heads.items()} == {"c1": 3, "lags": 2, "leads": 4, "fine": 2}
    assert {head.epoch for head in heads.values()} == {epoch} != {before["c1"].epoch}
    assert await restored.numbers("lags") == [(1, "chat"), (2, "chat")]
    assert await restored.numbers("leads") == [(1, "chat"), (2, "chat"), (3, "lost"), (4, "lost")]
    assert await restored.protocols.permissions.roles([(ALICE, "c1")]) == ["owner"]
    (numbered,) = await restored.protocols.numbers.number([message_of(stand.publication("lags", "three"))])
    assert numbered.sequence_number == 3
    dynamodb = stand.stage.services.dynamodb
    for table in TABLES:
        name = into + table.name
        if table in EMPTY:
            assert dynamodb.scan(TableName=name)["Items"] == []
        ttl = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
        assert (ttl["TimeToLiveStatus"], ttl["AttributeName"]) == ("ENABLED", "ttl")
        backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
        made = dynamodb.describe_table(TableName=name)["Table"]
        assert made["DeletionProtectionEnabled"]
        assert [key["AttributeName"] for key in made["KeySchema"]] == [
            key.name for key in (table.partition, table.sort) if key is not None
        ]
        assert [index["IndexName"] for index in made.get("GlobalSecondaryIndexes", [])] == [
            index.name for index in table.indexes
        ]
    assert [one["payload"]["content"] for one in await stand.history("c1")] == ["one", "two", "three"]
    restored.engine.close()


async def test_a_restore_may_be_repeated_and_mends_nothing_twice(stand: AwsHarness) -> None:
    await stand.publish("leads", "one")
    await stand.settle()
    meddle(stand, "leads", 2)
    into = f"{stand.stage.prefix}-restored-"
    wanted = ("aws", "restore", "--to", "2026-01-31T09:00:00Z", "--into", into)
    assert (await done(stand, *wanted))["repaired"]["filled"] == 1
    assert (await done(stand, *wanted))["repaired"]["filled"] == 0


async def test_mappings_stand_still_until_connections_have_ended_and_go_on_then(stand: AwsHarness) -> None:
    """The functions are there in name only: nothing is handed to them."""
    name = f"{stand.stage.prefix}-processor"
    functions = boto3.client("lambda")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.py", "def handler(event, context): return {'batchItemFailures': []}")
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
        ],
    }
    role = boto3.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]
    functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="index.handler",
        Role=role["Arn"],
        Code={"ZipFile": packed.getvalue()},
    )
    made = functions.create_event_source_mapping(
        FunctionName=name, EventSourceArn=stand.stage.arn(WEBSOCKET_FIFO_QUEUE.dead_letters), Enabled=True
    )
    state = functools.partial(functions.get_event_source_mapping, UUID=made["UUID"])
    client = await stand.connect(ALICE)
    into, spoilt = f"{stand.stage.prefix}-restored-", f"{stand.stage.prefix}-spoilt-"
    restore = ("aws", "restore", "--to", "2026-01-31T09:00:00Z", "--into")
    refused = await command(stand, *restore, into, "--tables-prefix", "nonesuch-")
    assert (refused.returncode, refused.stderr.count("\n"), state()["State"]) == (1, 1, "Enabled")
    stand.stage.services.dynamodb.create_table(  # no epoch can be written to it
        TableName=f"{spoilt}SequenceCounterTable",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "other", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "other", "AttributeType": "S"}],
    )
    failed = await command(stand, *restore, spoilt)
    notice, reason = failed.stderr.splitlines()
    assert (failed.returncode, state()["State"]) == (1, "Disabled")
    assert "paused" in notice
    assert "tocsin aws resume" in notice
    assert reason.startswith("tocsin: AWS: ")
    told = await done(stand, *restore, into)
    assert told["paused"] == 1
    assert state()["State"] == "Disabled"
    assert client.closed is None
    told = await done(stand, "aws", "resume", "--endpoint", stand.settings.ws_api_endpoint)
    assert told == {"ended": 1, "resumed": 1}
    assert state()["State"] == "Enabled"
    assert rows(stand, "ConnectionTable") == "[]"
    functions.delete_event_source_mapping(UUID=made["UUID"])
    functions.close()


async def test_a_stage_that_serves_from_restored_tables_is_worked_on_there(stand: AwsHarness) -> None:
    await stand.publish("c1", "secret")
    await stand.settle()
    into = f"{stand.stage.prefix}-restored-"
    await done(stand, "aws", "restore", "--to", "2026-01-31T09:00:00Z", "--into", into)
    assert await erase(stand, "--chat", "c1", "--yes", "--tables-prefix", into) == {"messages": 1}
    restored = Restored(stand, into)
    assert await restored.numbers("c1") == [(1, "erased")]
    assert "secret" in rows(stand, "MessageStorageTable")
    again = ("--tables-prefix", into, "--into", f"{into}again-")
    await done(stand, "aws", "restore", "--to", "2026-01-31T09:00:00Z", *again)
    twice = Restored(stand, f"{into}again-")
    assert await twice.numbers("c1") == [(1, "erased")]
    for one in (restored, twice):
        one.engine.close()


def test_a_restore_never_writes_over_what_is_served_from() -> None:
    assert "--into" in misused("aws", "restore", "--to", "2026-01-31T09:00:00Z", "--into", "dev-", "--prefix", "dev-")
