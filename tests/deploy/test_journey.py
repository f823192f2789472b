"""Messages' journeys through all that the template makes, with policies enforced: the roles are enough for them.

That each statement of a role is needed, its probe shows (test_probes.py); that no step loses anything when the function
dies in it, test_crashes.py.
"""

from contextlib import closing
from typing import Any

import boto3
import pytest
from websockets.exceptions import InvalidStatus

from tests.deploy.doors import Rest, eventually, fifo, listen
from tests.deploy.faults import failing, settings_of_all
from tests.deploy.people import Person
from tests.deploy.stage import Deployed
from tocsin.engines.aws.engine import AwsEngine
from tocsin.topology import WEBSOCKET_FIFO_QUEUE

#: What the emulator makes of an authorizer's "Unauthorized". On AWS it is a 401.
UNAUTHORIZED = 500

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_two_people_and_a_back_end_hear_each_other_in_order(
    deployed: Deployed, back_end: Rest, alice: Person, bob: Person, chat: str
) -> None:
    """P2P and A2P, through SNS, SQS and the processor; alice came with an access token, bob with an id token."""
    async with (
        listen(deployed, token=alice.access_token, userId=alice.user_id, chatId=chat) as first,
        listen(deployed, token=bob.id_token, chatId=chat) as second,
    ):
        assert (await first.sync(chat))["headSequence"] == 0
        assert (await second.sync(chat))["recovered"] is True
        sent = []
        for turn in range(4):
            for listener in (first, second):
                await listener.say(action="sendMessage", requestId="r", **fifo(chat, f"frame {turn}"))
                sent.append((await listener.hear("ack"))["messageId"])
            sent.append(back_end.publish(chat, f"call {turn}")["messageId"])
        for listener in (first, second):
            heard = [await listener.hear("message") for _ in sent]
            assert [message["messageId"] for message in heard] == sent
            assert [message["sequenceNumber"] for message in heard] == list(range(1, 13))
            assert [message["senderId"] for message in heard[:2]] == [alice.user_id, bob.user_id]
    page = Rest(deployed, bob.access_token)("GET", f"/messages?chatId={chat}&fromSequence=1")[1]
    assert [message["messageId"] for message in page["messages"]] == sent


def test_a_persons_id_is_the_user_pools_and_a_back_ends_its_client_id(
    deployed: Deployed, back_end: Rest, alice: Person, chat: str
) -> None:
    """As docs/aws-quick-start.md finds them, from the name and back."""
    with closing(boto3.client("cognito-idp")) as cognito:
        account = cognito.admin_get_user(UserPoolId=deployed.user_pool_id, Username="alice")
        (named,) = cognito.list_users(UserPoolId=deployed.user_pool_id, Filter=f'sub = "{alice.user_id}"')["Users"]
    assert {each["Name"]: each["Value"] for each in account["UserAttributes"]}["sub"] == alice.user_id
    assert named["Username"] == "alice"
    Rest(deployed, alice.access_token).publish(chat, "hers")
    back_end.publish(chat, "its")
    page = eventually(lambda: back_end.numbered(chat, 2))
    assert [message["senderId"] for message in page] == [alice.user_id, deployed.machine_client_id]


async def test_a_message_without_a_number_is_heard_and_stored_and_its_id_counts_once(
    deployed: Deployed, alice: Person, chat: str
) -> None:
    rest = Rest(deployed, alice.access_token)
    plain = {"payload": {"chatId": chat, "eventType": "chat", "content": "plain"}, "messageDeduplicationId": "once"}
    async with listen(deployed, token=alice.access_token, chatId=chat) as listener:
        await listener.sync(chat)
        first, second = (rest("POST", "/publish", plain)[1] for _ in range(2))
        message = await listener.hear("message")
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["messageId"] == second["messageId"] == message["messageId"]
    assert "sequenceNumber" not in message
    (stored,) = eventually(lambda: rest("GET", f"/messages?chatId={chat}")[1]["messages"])
    assert stored == {name: value for name, value in message.items() if name != "type"}
    other = plain | {"payload": {"chatId": chat, "eventType": "chat", "content": "another"}}
    assert rest("POST", "/publish", other)[0] == 409


async def test_a_batch_is_published_in_its_order_and_each_entry_has_its_answer(
    deployed: Deployed, alice: Person, chat: str
) -> None:
    rest = Rest(deployed, alice.access_token)
    messages = [fifo(chat, number) for number in range(12)] + [fifo("somebody-elses", "no")]
    status, answer = rest("POST", "/publish/batch", {"messages": messages})
    assert (status, answer["results"][-1]["error"]["code"]) == (200, "forbidden")
    page = eventually(lambda: rest.numbered(chat, 12))
    assert [message["payload"]["content"] for message in page] == list(range(12))
    assert [message["messageId"] for message in page] == [each["messageId"] for each in answer["results"][:12]]


async def test_what_was_missed_comes_with_the_first_sync(
    deployed: Deployed, back_end: Rest, alice: Person, bob: Person, chat: str
) -> None:
    async with listen(deployed, token=bob.access_token, chatId=chat) as listener:
        await listener.sync(chat)
        back_end.publish(chat, 1)
        assert await listener.hear_up_to(1) == [1]
    for content in (2, 3, 4):
        back_end.publish(chat, content)
    eventually(lambda: back_end("GET", f"/messages?chatId={chat}")[1]["headSequence"] == 4)
    async with listen(deployed, token=bob.access_token, chatId=chat) as listener:
        subscribed = await listener.sync(chat, after=1)
        assert (subscribed["headSequence"], subscribed["recovered"]) == (4, True)
        assert await listener.hear_up_to(4) == [2, 3, 4]
        back_end.publish(chat, 5)
        assert await listener.hear_up_to(5) == [5]


async def test_a_ticket_opens_once_and_its_chats_are_the_limit(
    deployed: Deployed, back_end: Rest, alice: Person, bob: Person, chat: str
) -> None:
    back_end.grant(bob.user_id, "another-chat")
    ticket = Rest(deployed, bob.access_token)("POST", "/tickets", {"chatIds": [chat]})[1]["ticket"]
    async with listen(deployed, ticket=ticket, chatId=chat) as listener:
        await listener.sync(chat)
        await listener.say(action="subscribe", chatId="another-chat", requestId="s")
        assert (await listener.hear("error"))["code"] == "forbidden"
        await listener.say(action="sendMessage", requestId="m", **fifo(chat, "with a ticket"))
        assert (await listener.hear("message"))["senderId"] == bob.user_id
    with pytest.raises(InvalidStatus) as refused:
        async with listen(deployed, ticket=ticket, chatId=chat):
            pass
    assert refused.value.response.status_code == UNAUTHORIZED


async def test_every_action_is_answered_and_the_token_can_be_renewed(
    deployed: Deployed, alice: Person, bob: Person, chat: str
) -> None:
    async with listen(deployed, token=alice.access_token) as listener:
        await listener.say(action="ping", requestId="p")
        assert (await listener.hear("pong"))["requestId"] == "p"
        await listener.say(action="subscribe", chatId=chat, requestId="s")
        assert (await listener.hear("subscribed"))["requestId"] == "s"
        await listener.say(action="refreshToken", token=alice.id_token, requestId="t")
        assert (await listener.hear("ack"))["requestId"] == "t"
        await listener.say(action="refreshToken", token=bob.access_token, requestId="b")
        assert (await listener.hear("error"))["requestId"] == "b"
        await listener.say(action="unsubscribe", chatId=chat, requestId="u")
        assert (await listener.hear("unsubscribed"))["requestId"] == "u"
        for action in ("$connect", "$disconnect", "dance"):
            await listener.say(action=action, requestId=action)
            assert (await listener.hear("error"))["code"] == "unknown_action"
        await listener.say(action="ping", requestId="still here")
        assert (await listener.hear("pong"))["requestId"] == "still here"


async def test_who_is_revoked_is_told_and_hears_and_reads_no_more(
    deployed: Deployed, back_end: Rest, alice: Person, bob: Person, chat: str
) -> None:
    as_alice, as_bob = Rest(deployed, alice.access_token), Rest(deployed, bob.access_token)
    assert len(as_alice("GET", f"/permissions?chatId={chat}")[1]["permissions"]) == 2
    async with (
        listen(deployed, token=alice.access_token, chatId=chat) as first,
        listen(deployed, token=bob.access_token, chatId=chat) as second,
    ):
        for listener in (first, second):
            await listener.sync(chat)
        back_end.publish(chat, 1)
        for listener in (first, second):
            assert await listener.hear_up_to(1) == [1]
        status, revoked = as_alice("DELETE", f"/permissions?userId={bob.user_id}&chatId={chat}")
        assert (status, revoked["fenceSequence"]) == (200, 1)
        assert (await second.hear("revoked"))["chatId"] == chat
        back_end.publish(chat, 2)
        assert await first.hear_up_to(2) == [2]
        await second.say(action="subscribe", chatId=chat, requestId="s")
        assert (await second.hear("error"))["code"] == "forbidden"
        assert not second.kept("message")
    assert as_bob("GET", f"/messages?chatId={chat}")[0] == 403
    assert as_bob("POST", "/publish", fifo(chat, "still me"))[0] == 403


def test_rest_refuses_an_id_token(deployed: Deployed, alice: Person, chat: str) -> None:
    """The door's authorizer does, because it asks for scopes: test_rest_door.py."""
    assert Rest(deployed, alice.access_token)("GET", f"/messages?chatId={chat}")[0] == 200
    status, refused = Rest(deployed, alice.id_token)("GET", f"/messages?chatId={chat}")
    assert (status, refused["code"]) == (401, "unauthorized")


async def test_a_connection_that_is_gone_is_forgotten_and_the_others_still_hear(
    deployed: Deployed, back_end: Rest, alice: Person, chat: str
) -> None:
    """Its `$disconnect` never came: its rows stand there, and API Gateway does not know it."""
    tables: dict[str, dict[str, Any]] = {
        "ConnectionTable": {"connectionId": {"S": "gone"}},
        "SubscriptionTable": {"chatId": {"S": chat}, "connectionId": {"S": "gone"}},
    }
    with closing(boto3.client("dynamodb")) as dynamodb:

        def is_forgotten() -> bool:
            return not any("Item" in dynamodb.get_item(TableName=table, Key=key) for table, key in tables.items())

        async with listen(deployed, token=alice.access_token, chatId=chat) as listener:
            here = (await listener.sync(chat))["connectionId"]
            for table, key in tables.items():
                row: dict[str, Any] = dynamodb.get_item(TableName=table, Key=key | {"connectionId": {"S": here}})[
                    "Item"
                ]
                row["connectedAt"] = {"N": str(int(row["connectedAt"]["N"]) - 61_000)}
                dynamodb.put_item(TableName=table, Item=row | key)
            back_end.publish(chat, 1)
            assert await listener.hear_up_to(1) == [1]
            eventually(is_forgotten)
            back_end.publish(chat, 2)
            assert await listener.hear_up_to(2) == [2]


async def test_a_poisoned_message_is_a_dead_letter_alone_and_keeps_its_number_when_it_is_replayed(
    deployed: Deployed, back_end: Rest, alice: Person, chat: str
) -> None:
    engine = AwsEngine(settings_of_all())
    try:
        async with listen(deployed, token=alice.access_token, chatId=chat) as listener:
            await listener.sync(chat)
            with failing("processor", "processor.before_audience=raise~POISON"):
                sent = [back_end.publish(chat, content) for content in ("first", "POISON", "third")]
                assert await listener.hear_up_to(3) == [1, 3]
                gap = await listener.hear("gap")
                assert (gap["from"], gap["to"]) == (2, 2)
                (letter,) = await engine.bus.dead_letters()
                assert (letter.message_id, letter.queue) == (sent[1]["messageId"], WEBSOCKET_FIFO_QUEUE.name)
            assert await engine.bus.replay([letter.letter_id]) == 1
            page = eventually(lambda: back_end.numbered(chat, 3))
        assert [message["messageId"] for message in page] == [each["messageId"] for each in sent]
        assert await engine.bus.dead_letters() == []
    finally:
        engine.close()
