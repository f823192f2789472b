"""`tocsin aws …` and `tocsin dlq … --aws`, on a stage of the emulator; what the commands see is what functions left."""

import asyncio
import subprocess
import sys
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
from tocsin.engines.aws.erasure import NOBODY, PAGE
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


def test_no_command_imports_boto3_before_it_needs_it() -> None:
    code = "import sys, tocsin.cli; print([name for name in ('boto3', 'botocore') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
