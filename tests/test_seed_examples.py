"""The seed's usage examples, word for word out of docs/seed.md, against the running service.

Changed are the host (`https://api.example.com`, and `wss:` for the WebSocket) and nothing else; the token, the user,
the chat and the page's key come from the variables that the examples themselves use.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.guarantees.server import BACK_END, Service, environment, mint

pytestmark = pytest.mark.slow

SEED: Final = (Path(__file__).parent.parent / "docs" / "seed.md").read_text()
CHAT: Final = "chat-abc123"
USER: Final = "user-123"
HOST: Final = "api.example.com"
LISTENER: Final = "alice"
SECONDS: Final = 20


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


@pytest.fixture
async def service(tmp_path: Path, program: Callable[[str], Path]) -> AsyncIterator[Service]:
    program("curl")
    program("node")
    data = tmp_path / "data"
    async with Service(data, mint(data, [BACK_END, LISTENER, USER])) as running:
        await running.start()
        yield running


async def curl(service: Service, command: str, user: str = BACK_END, **variables: str) -> Any:
    """What the command printed, which is one JSON document. (-sS and -f: no progress bar, and a refusal fails.)"""
    script = command.replace(f"https://{HOST}", service.http_url.removesuffix("/dvl")).replace("curl ", "curl -sS -f ")
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script,
        env=environment(COGNITO_TOKEN=service.tokens[user], **variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaint = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0, complaint.decode()
    return json.loads(printed)


async def grant(service: Service, user: str) -> None:
    command = commands("Permission Management Examples")["Grant permission"]
    await curl(service, command.replace(USER, user))


async def test_the_p2p_example_sends_and_receives_its_message_in_node(service: Service) -> None:
    await grant(service, USER)
    script = example("P2P Example", "typescript").replace(f"wss://{HOST}", service.socket_url.removesuffix("/dvl"))
    given = f"const [token, userId, chatId] = {json.dumps([service.tokens[USER], USER, CHAT])};\n"
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
        node.kill()
        await node.wait()
    assert re.search(r"Message received: \{\s+type: 'subscribed',\s+chatId: 'chat-abc123',", printed.decode())
    page = await curl(service, commands("Message Retrieval Example")["Get recent messages"])
    assert [message["payload"]["content"] for message in page["messages"]] == ["Hello via P2P!"]


async def test_the_a2p_example_is_accepted_and_numbered(service: Service) -> None:
    answer = await curl(service, example("A2P Example", "bash"))
    assert answer["duplicate"] is False
    page = await curl(service, commands("Message Retrieval Example")["Get recent messages"])
    (message,) = page["messages"]
    assert message["messageId"] == answer["messageId"]
    assert (message["sequenceNumber"], message["payload"]["content"]) == (1, "Message from service")


async def test_the_retrieval_examples_give_the_newest_the_next_page_and_a_range_of_time(service: Service) -> None:
    for _ in range(51):
        await curl(service, example("A2P Example", "bash"))
    retrieval = commands("Message Retrieval Example")
    first = await curl(service, retrieval["Get recent messages"])
    second = await curl(service, retrieval["With pagination"], KEY=first["nextStartKey"])
    since = await curl(service, retrieval["Time range filter"])
    assert [message["sequenceNumber"] for message in first["messages"]] == list(range(51, 1, -1))
    assert [message["sequenceNumber"] for message in second["messages"]] == [1]
    assert since["messages"] == first["messages"]
    assert (first["headSequence"], second["nextStartKey"]) == (51, None)


async def test_the_permission_examples_grant_revoke_and_list(service: Service) -> None:
    examples = commands("Permission Management Examples")
    granted = await curl(service, examples["Grant permission"])
    assert (granted["userId"], granted["chatId"], granted["role"]) == (USER, CHAT, "member")
    assert (await curl(service, examples["List permissions"], USER))["permissions"] == [granted]
    assert await curl(service, examples["Revoke permission"]) == {"userId": USER, "chatId": CHAT, "fenceSequence": 0}
    assert (await curl(service, examples["List permissions"], USER))["permissions"] == []


def test_every_usage_example_of_the_seed_is_run() -> None:
    usage = SEED.partition("\n## Usage Examples\n")[2].partition("\n## ")[0]
    run_here = Path(sys.modules[__name__].__file__ or "").read_text()
    headings = re.findall(r"^### ([\w ]+?)(?: \(.*)?$", usage, re.MULTILINE)
    assert headings
    assert all(f'"{heading.strip().removesuffix("s")}' in run_here for heading in headings)
