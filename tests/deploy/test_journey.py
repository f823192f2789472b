"""A message's journey through all that the template makes, with policies enforced: the roles are enough for it.

On an emulator of its own that evaluates IAM. That each statement of a role is needed, its probe shows.
"""

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.deploy.conftest import PLAIN
from tests.deploy.stage import Deployed, deploy
from tests.ministack import Ministack

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PASSWORD = "Correct-Horse-7-Battery"
#: A function that has not run yet takes its time.
SECONDS = 60


@pytest.fixture(scope="module")
def enforced(synthesize: Callable[..., Path], package_here: Path) -> Iterator[tuple[Deployed, str]]:
    """A stage on an emulator with AUTH, and its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTH", "true")
        emulator = Ministack()
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        yield deploy(synthesize(*PLAIN, package=package_here), emulator.url), emulator.url
        emulator.stop()


class Person:
    """Somebody with an account in the user pool."""

    def __init__(self, cognito: "CognitoIdentityProviderClient", deployed: Deployed, name: str) -> None:
        cognito.admin_create_user(UserPoolId=deployed.user_pool_id, Username=name, MessageAction="SUPPRESS")
        cognito.admin_set_user_password(
            UserPoolId=deployed.user_pool_id, Username=name, Password=PASSWORD, Permanent=True
        )
        signed_in = cognito.initiate_auth(
            ClientId=deployed.web_client_id,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": name, "PASSWORD": PASSWORD},
        )["AuthenticationResult"]
        self.access_token: str = signed_in["AccessToken"]
        self.id_token: str = signed_in["IdToken"]
        claims = json.loads(urlsafe_b64decode(self.access_token.split(".")[1] + "==="))
        self.user_id: str = claims["sub"]


def back_end(cognito: "CognitoIdentityProviderClient", deployed: Deployed, url: str) -> str:
    """An access token of the client for back ends."""
    client = cognito.describe_user_pool_client(UserPoolId=deployed.user_pool_id, ClientId=deployed.machine_client_id)[
        "UserPoolClient"
    ]
    answer = httpx.post(
        f"{url}/oauth2/token",
        auth=(client["ClientId"], client["ClientSecret"]),
        data={"grant_type": "client_credentials"},
        timeout=SECONDS,
    )
    return str(answer.json()["access_token"])


class Rest:
    """The REST door, with a token."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        answer = httpx.request(method, f"{self._url}{path}", json=body, headers=self._headers, timeout=SECONDS)
        return answer.status_code, answer.json() if answer.content else None


async def hear(socket: ClientConnection, kind: str) -> Any:
    """The next frame of that type."""
    while True:
        frame = json.loads(await socket.recv())
        if frame["type"] == kind:
            return frame


async def say(socket: ClientConnection, **frame: object) -> None:
    await socket.send(json.dumps(frame))


async def test_the_roles_are_enough_from_the_first_grant_to_the_revocation(enforced: tuple[Deployed, str]) -> None:
    deployed, url = enforced
    with closing(boto3.client("cognito-idp")) as cognito:
        alice, bob = (Person(cognito, deployed, name) for name in ("alice", "bob"))
        service = Rest(deployed.rest_url, back_end(cognito, deployed, url))
    as_alice, as_bob = (Rest(deployed.rest_url, person.access_token) for person in (alice, bob))
    for person, role in ((alice, "owner"), (bob, "member")):
        grant = {"userId": person.user_id, "chatId": "chat-a", "role": role}
        assert service("POST", "/permissions", grant)[0] == 200
    assert len(as_alice("GET", "/permissions?chatId=chat-a")[1]["permissions"]) == 2
    ticket = as_bob("POST", "/tickets", {"chatIds": ["chat-a"]})[1]["ticket"]

    async with (
        connect(f"{deployed.websocket_url}?token={alice.access_token}&chatId=chat-a", open_timeout=SECONDS) as first,
        connect(f"{deployed.websocket_url}?ticket={ticket}&chatId=chat-a", open_timeout=SECONDS) as second,
    ):
        await say(second, action="sync", chats={"chat-a": None})
        assert (await hear(second, "subscribed"))["headSequence"] == 0
        payload = {"chatId": "chat-a", "eventType": "chat", "content": "Hello."}
        await say(first, action="sendMessage", messageType="fifo", payload=payload, requestId="1")
        assert (await hear(first, "ack"))["requestId"] == "1"
        for socket in (first, second):
            assert (await hear(socket, "message"))["sequenceNumber"] == 1
        assert as_bob("POST", "/publish", {"messageType": "fifo", "payload": payload})[0] == 202
        assert as_bob("POST", "/publish", {"payload": payload, "messageDeduplicationId": "once"})[0] == 202
        heard = [await hear(second, "message"), await hear(second, "message")]
        assert sorted(message.get("sequenceNumber", 0) for message in heard) == [0, 2]
        status, history = as_bob("GET", "/messages?chatId=chat-a&fromSequence=1")
        assert (status, [message["sequenceNumber"] for message in history["messages"]]) == (200, [1, 2])
        assert as_bob("POST", "/metrics", {"metrics": [{"name": "custom.journey", "value": 1}]})[0] == 202

        revoked = as_alice("DELETE", f"/permissions?userId={bob.user_id}&chatId=chat-a")
        assert (revoked[0], revoked[1]["fenceSequence"]) == (200, 2)
        assert (await hear(second, "revoked"))["chatId"] == "chat-a"
    assert as_bob("GET", "/messages?chatId=chat-a")[0] == 403
    assert Rest(deployed.rest_url, alice.id_token)("GET", "/messages?chatId=chat-a")[0] == 401, "an id token"
