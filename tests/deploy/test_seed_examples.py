"""The seed's examples, as they stand, against the stage: people and a back end with Cognito's tokens.

Here the chat of the examples is one for all tests: each looks at what is its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.deploy.doors import Listener, Rest, eventually
from tests.deploy.people import Person, back_end_token
from tests.deploy.stage import Deployed
from tests.ministack import Ministack
from tests.seed_examples import A2P, CHAT, PERMISSIONS, RETRIEVAL, USER, Place, commands, example, frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def place(deployed: Deployed, program: Callable[[str], Path]) -> Place:
    program("curl")
    program("node")
    return Place(rest=deployed.rest_url, socket=deployed.websocket_url)


@pytest.fixture(scope="module")
def service_token(deployed: Deployed, ministack: Ministack) -> str:
    """A back end's."""
    return back_end_token(deployed, ministack.url)


async def publish(place: Place, token: str, back_end: Rest) -> Any:
    """The A2P example's message, once it is in history."""
    message_id = (await place.curl(example(A2P, "bash"), token))["messageId"]

    def stored() -> list[Any]:
        page = back_end("GET", f"/messages?chatId={CHAT}")[1]["messages"]
        return [message for message in page if message["messageId"] == message_id]

    (message,) = eventually(stored)
    return message


async def test_the_p2p_example_sends_and_receives_its_message_in_node(
    place: Place, alice: Person, service_token: str
) -> None:
    await place.grant(alice.user_id, service_token)
    printed = await place.page(alice.access_token, alice.user_id)
    assert f"senderId: '{alice.user_id}'" in printed


async def test_the_frame_of_the_message_format_is_heard_with_its_number(
    place: Place, bob: Person, service_token: str
) -> None:
    """At the example's URL, with an id token."""
    await place.grant(bob.user_id, service_token)
    async with connect(place.url(bob.id_token, bob.user_id)) as socket:
        listener = Listener(socket)
        await socket.send(frame())
        while (message := await listener.hear("message"))["payload"]["content"] != "Hello!":
            pass  # it is of a test before this one
    assert message["senderId"] == bob.user_id
    assert message["sequenceNumber"] >= 1


async def test_the_a2p_example_is_accepted_and_numbered(
    deployed: Deployed, place: Place, back_end: Rest, service_token: str
) -> None:
    first, second = [await publish(place, service_token, back_end) for _ in range(2)]
    assert second["sequenceNumber"] == first["sequenceNumber"] + 1
    assert second["payload"]["content"] == "Message from service"
    assert second["senderId"] == deployed.machine_client_id


async def test_the_retrieval_examples_give_the_newest_the_next_page_and_a_range_of_time(
    place: Place, back_end: Rest, alice: Person, service_token: str
) -> None:
    """The key is that of a page with one message, since `limit` may change from page to page."""
    await place.grant(alice.user_id, service_token)
    messages = [await publish(place, service_token, back_end) for _ in range(2)]
    retrieval = commands(RETRIEVAL)
    newest = (await place.curl(retrieval["Get recent messages"], alice.access_token))["messages"]
    assert newest[:2] == messages[::-1]
    key = back_end("GET", f"/messages?chatId={CHAT}&limit=1")[1]["nextStartKey"]
    assert (await place.curl(retrieval["With pagination"], service_token, KEY=key))["messages"] == newest[1:]
    assert (await place.curl(retrieval["Time range filter"], service_token))["messages"] == newest
    with pytest.raises(AssertionError, match="401"):
        await place.curl(retrieval["Get recent messages"], alice.id_token)


async def test_the_permission_examples_grant_revoke_and_list(place: Place, service_token: str) -> None:
    examples = commands(PERMISSIONS)
    granted = await place.curl(examples["Grant permission"], service_token)
    assert (granted["userId"], granted["chatId"], granted["role"]) == (USER, CHAT, "member")
    assert (await place.curl(examples["List permissions"], service_token))["permissions"] == [granted]
    revoked = await place.curl(examples["Revoke permission"], service_token)
    assert (revoked["userId"], revoked["chatId"]) == (USER, CHAT)
    assert (await place.curl(examples["List permissions"], service_token))["permissions"] == []
