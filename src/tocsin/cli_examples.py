"""What `tocsin serve --examples` prints: commands to paste, for a chat that is made here, with fresh tokens.

    profile, once it listens -> print_examples -> alice and bob get their roles -> example_commands -> stdout

Rule: these are the only tokens that a service ever prints: for an hour, in the chat that the seed's examples use, and
only where a flag asks for it, on a machine where one tries things out.
"""

import shlex
import sys
from pathlib import Path
from typing import Final

from tocsin.engines.file_keys import FileKeys
from tocsin.identity import Identity
from tocsin.service import Service

CHAT: Final = "chat-abc123"
TTL_S: Final = 3_600
BACKEND_SCOPES: Final = frozenset({"publish:any", "permissions:write", "messages:read"})

_TEXT: Final = r"""
Commands to try; they work for an hour. Paste these lines first, into each terminal:

URL={url}
ALICE={alice}
BOB={bob}
BACKEND={backend}

As alice, listen to {chat}; the second line is one to type there, and sends a message (Ctrl-D ends it):

{python} -m websockets "{socket_url}?userId=alice&chatId={chat}&token=$ALICE"
{{"action":"sendMessage","messageType":"fifo","payload":{{"chatId":"{chat}","eventType":"chat","content":"Hello!"}}}}

As bob, with the WebSocket that browsers have, from the first message on:

node --experimental-websocket -e '
  const [url, token] = process.argv.slice(1);
  new WebSocket(url, ["tocsin.v1", "bearer." + token]).onmessage = event => console.log(event.data);
' "{socket_url}?chatId={chat}&lastSequence=0" "$BOB"

Publish from a back end; read the history as bob:

curl -sS "$URL/publish" -H "Authorization: Bearer $BACKEND" -H "Content-Type: application/json" -d '{{
  "targetChannel": "WebSocket",
  "messageType": "fifo",
  "payload": {{"chatId": "{chat}", "eventType": "notification", "content": "Your order has shipped!"}}
}}'
curl -sS "$URL/messages?chatId={chat}&limit=50" -H "Authorization: Bearer $BOB"

Let carol in, as the back end; take bob out, as the chat's owner:

curl -sS "$URL/permissions" -H "Authorization: Bearer $BACKEND" -H "Content-Type: application/json" \
  -d '{{"userId": "carol", "chatId": "{chat}", "role": "member"}}'
curl -sS -X DELETE "$URL/permissions?userId=bob&chatId={chat}" -H "Authorization: Bearer $ALICE"

Or with the command line, which comes back by itself when the service does:

TOCSIN_URL=$URL TOCSIN_TOKEN=$ALICE {python} -m tocsin tail {chat} --from 1

"""


async def print_examples(service: Service, keys: FileKeys, url: str) -> None:
    """`url` is where REST is, base path included."""
    now = service.engine.clock.now()
    backend = Identity(user_id="backend", scopes=BACKEND_SCOPES, expires_at=now + TTL_S * 1_000)
    await service.chat_permission.grant(backend, "alice", CHAT, "owner")
    await service.chat_permission.grant(backend, "bob", CHAT, "member")
    text = example_commands(
        url,
        alice=keys.mint("alice", (), TTL_S, now),
        bob=keys.mint("bob", (), TTL_S, now),
        backend=keys.mint("backend", BACKEND_SCOPES, TTL_S, now),
        python=_python(),
    )
    sys.stdout.write(text)
    sys.stdout.flush()


def example_commands(url: str, *, alice: str, bob: str, backend: str, python: str) -> str:
    """The three tokens; `python` is a shell's word for an interpreter that has websockets and tocsin."""
    return _TEXT.format(
        url=shlex.quote(url),
        socket_url="ws" + url.removeprefix("http"),
        chat=CHAT,
        alice=alice,
        bob=bob,
        backend=backend,
        python=python,
    )


def _python() -> str:
    """This interpreter, as it is seen from here."""
    path, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
