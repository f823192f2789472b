"""The seed's examples, word for word out of docs/seed.md, and the programs that run them: curl, and Node as a page.

    docs/seed.md -> example, commands, frame -> Place -> test_seed_examples.py (one process)
                                                      -> deploy/test_seed_examples.py (the stage on AWS's emulator)

Changed are the host (`https://api.example.com/dvl`, and `wss:` for the WebSocket) and nothing else; the token, the
user, the chat and the page's key come from the variables that the examples themselves use.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.guarantees.server import environment

SEED: Final = (Path(__file__).parent.parent / "docs" / "seed.md").read_text()
CHAT: Final = "chat-abc123"
USER: Final = "user-123"
HOST: Final = "api.example.com/dvl"
SECONDS: Final = 20

P2P: Final = "P2P Example"
A2P: Final = "A2P Example"
RETRIEVAL: Final = "Message Retrieval Example"
PERMISSIONS: Final = "Permission Management Example"


def example(heading: str, language: str) -> str:
    """The code below a heading of the seed's "Usage Examples"."""
    section = SEED.partition("\n## Usage Examples\n")[2].partition(f"\n### {heading}")[2]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def commands(heading: str) -> dict[str, str]:
    """comment -> the command below it."""
    parts = re.split(r"^# (.*)\n", example(heading, "bash"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def frame() -> str:
    """The seed's "Message Format" over a WebSocket."""
    found = re.search(r"^\*\*P2P \(WebSocket\):\*\*\n```json\n(.*?)^```$", SEED, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the service is. Both URLs end with the base path."""

    rest: str
    socket: str

    def url(self, token: str, user: str) -> str:
        """What the P2P example connects to."""
        found = re.search(r"`(wss://.*)`", example(P2P, "typescript"))
        assert found
        given = {"${token}": token, "${userId}": user, "${chatId}": CHAT, f"wss://{HOST}": self.socket}
        url = found[1]
        for name, value in given.items():
            url = url.replace(name, value)
        return url

    async def curl(self, command: str, token: str, **variables: str) -> Any:
        """What the command printed: one JSON document. (-sS and -f: no progress bar, and a refusal fails.)"""
        script = command.replace(f"https://{HOST}", self.rest).replace("curl ", "curl -sS -f ")
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            script,
            env=environment(COGNITO_TOKEN=token, **variables),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complaint = await asyncio.wait_for(process.communicate(), SECONDS)
        assert process.returncode == 0, complaint.decode()
        return json.loads(printed)

    async def grant(self, user: str, token: str) -> None:
        await self.curl(commands(PERMISSIONS)["Grant permission"].replace(USER, user), token)

    async def page(self, token: str, user: str) -> str:
        """What the P2P example printed in Node, once it has heard its own message."""
        script = example(P2P, "typescript").replace(f"wss://{HOST}", self.socket)
        given = f"const [token, userId, chatId] = {json.dumps([token, user, CHAT])};\n"
        node = await asyncio.create_subprocess_exec(
            "node",
            "--experimental-websocket",
            "--no-warnings",
            "--input-type=module",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert node.stdin is not None
        assert node.stdout is not None
        node.stdin.write((given + script).encode())
        node.stdin.close()
        try:
            printed = b""
            async with asyncio.timeout(SECONDS):
                while b"Hello via P2P!" not in printed:
                    line = await node.stdout.readline()
                    assert line, printed.decode()
                    printed += line
        finally:
            if node.returncode is None:
                node.kill()
            await node.wait()
        return printed.decode()
