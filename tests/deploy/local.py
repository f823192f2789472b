"""`make aws-local`: the stage that the tests deploy, for people. An emulator, two accounts, and commands to try.

    package, templates -> Ministack -> deploy -> alice, bob, a back end -> commands on stdout -> until Ctrl-C

Rule: everything is in the emulator's memory and its own folder, and gone with it; no AWS account is asked for, and none
would be believed.
"""

import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import httpx

from tests.deploy.conftest import PLAIN, run
from tests.deploy.people import SECONDS, back_end_token, sign_up
from tests.deploy.stage import Deployed, deploy
from tests.ministack import PROGRAM, REGION, Ministack

CHAT: Final = "chat-abc123"

_TEXT: Final = r"""
All three stacks stand on an emulator of AWS (ministack); AWS itself is not asked for anything.

  REST       {rest}
  WebSocket  {socket}

Commands to try; the tokens work for an hour. Paste these lines first, into each terminal:

REST={rest}
SOCKET={socket}
ALICE={alice}
ALICE_ID={alice_id}
BOB={bob}
BOB_ID={bob_id}
BACKEND={back_end}

As alice, listen to {chat}. The other lines are to be typed there: what was said before, and a message (Ctrl-D ends it):

{python} -m websockets "$SOCKET?chatId={chat}&token=$ALICE"
{{"action":"sync","chats":{{"{chat}":0}}}}
{{"action":"sendMessage","messageType":"fifo","payload":{{"chatId":"{chat}","eventType":"chat","content":"Hello!"}}}}

Publish from a back end; read the history as bob:

curl -sS "$REST/publish" -H "Authorization: Bearer $BACKEND" -H "Content-Type: application/json" -d '{{
  "targetChannel": "WebSocket",
  "messageType": "fifo",
  "payload": {{"chatId": "{chat}", "eventType": "notification", "content": "Your order has shipped!"}}
}}'
curl -sS "$REST/messages?chatId={chat}&limit=50" -H "Authorization: Bearer $BOB"

Take bob out, as the chat's owner (REST takes access tokens only; alice's WebSocket would take her id token, too):

curl -sS -X DELETE "$REST/permissions?userId=$BOB_ID&chatId={chat}" -H "Authorization: Bearer $ALICE"

What boto3 and the AWS CLI need to look into the tables and queues:

{environment}

Ctrl-C ends it, and everything in it.
"""


def commands(deployed: Deployed, url: str) -> str:
    """Two people in the chat, a back end, and what to paste."""
    alice, bob = sign_up(deployed, "alice"), sign_up(deployed, "bob")
    back_end = back_end_token(deployed, url)
    for person, role in ((alice, "owner"), (bob, "member")):
        httpx.post(
            f"{deployed.rest_url}/permissions",
            json={"userId": person.user_id, "chatId": CHAT, "role": role},
            headers={"Authorization": f"Bearer {back_end}"},
            timeout=SECONDS,
        ).raise_for_status()
    return _TEXT.format(
        rest=deployed.rest_url,
        socket=deployed.websocket_url,
        alice=alice.access_token,
        alice_id=alice.user_id,
        bob=bob.access_token,
        bob_id=bob.user_id,
        back_end=back_end,
        chat=CHAT,
        python=shlex.quote(os.path.relpath(sys.executable)),
        environment=f"export AWS_ENDPOINT_URL={url} AWS_DEFAULT_REGION={REGION} AWS_ACCESS_KEY_ID=test "
        "AWS_SECRET_ACCESS_KEY=test",
    )


def made(folder: Path) -> Path:
    """The templates, and the functions' code for the emulator's own Python; seconds, each time anew."""
    package, templates = folder / "functions", folder / "templates"
    for command in (
        ("deploy.aws.package", package, "--python", PROGRAM.with_name("python")),
        ("deploy.aws.app", *PLAIN, "--package", package, "--output", templates),
    ):
        done = run("python", "-m", *command)
        if done.returncode:
            raise SystemExit(done.stderr)
    return templates


def main() -> None:
    for ends in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ends, signal.default_int_handler)
    try:
        emulator = Ministack()
        try:
            os.environ.update(emulator.environment())
            with tempfile.TemporaryDirectory() as folder:
                print("Making the templates, and deploying them to an emulator ...", flush=True)
                deployed = deploy(made(Path(folder)), emulator.url)
            print(commands(deployed, emulator.url), flush=True)
            signal.pause()
        finally:
            emulator.stop()
    except KeyboardInterrupt:
        print("Gone.")


if __name__ == "__main__":
    main()
