"""A function dies after each of its steps, again and again, and a chat's numbers are 1..n all the same.

    messages -> the doors -> processor and message-storage, killed at a failpoint -> the listener, history, queues

Each process dies the second time that it comes by: so every message is tried, and about every second one is tried by a
process that dies of it. What it was at is hidden for 3 s, in place of six minutes.
"""

from collections.abc import Iterator

import pytest

from tests.deploy.doors import Rest, eventually, listen
from tests.deploy.faults import failing, hidden_for
from tests.deploy.people import Person
from tests.deploy.stage import Deployed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MESSAGES = 3
STEPS = ("number.committed", "processor.before_audience", "processor.mid_fanout", "deliver.mid", "processor.done")


@pytest.fixture(scope="module", autouse=True)
def soon(deployed: Deployed) -> Iterator[None]:
    with hidden_for(3):
        yield


@pytest.mark.parametrize("step", STEPS)
async def test_a_chat_is_numbered_1_to_n_though_the_processor_dies_at(
    deployed: Deployed, back_end: Rest, alice: Person, chat: str, step: str
) -> None:
    async with listen(deployed, token=alice.access_token, chatId=chat) as listener:
        await listener.sync(chat)
        with failing("processor", f"{step}=kill@2"):
            sent = [back_end.publish(chat, content)["messageId"] for content in range(MESSAGES)]
            numbers = await listener.hear_up_to(MESSAGES)
        # What was posted and then died of is posted again; nothing is left out, nothing goes backwards.
        assert sorted(set(numbers)) == list(range(1, MESSAGES + 1))
        assert numbers == sorted(numbers)
    page = back_end("GET", f"/messages?chatId={chat}&fromSequence=1")[1]
    assert [(each["messageId"], each["sequenceNumber"]) for each in page["messages"]] == [
        (message_id, number) for number, message_id in enumerate(sent, start=1)
    ]


async def test_what_storage_died_of_is_stored_once(deployed: Deployed, alice: Person, chat: str) -> None:
    """The first before the second is published, which is what a process then dies of."""
    rest = Rest(deployed, alice.access_token)
    with failing("message-storage", "storage.mid_move=kill@2"):
        for content in range(2):
            plain = {"payload": {"chatId": chat, "eventType": "chat", "content": content}}
            assert rest("POST", "/publish", plain)[0] == 202
            stored = eventually(lambda count=content + 1: rest.stored(chat, count))  # type: ignore[misc]
    assert [each["payload"]["content"] for each in stored] == [0, 1]
