"""The programs of examples/ do what they say, against the running service; the page in Chromium."""

import asyncio
import contextlib
import functools
import http.server
import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.guarantees.server import BACK_END, Service, environment, mint

pytestmark = pytest.mark.slow

EXAMPLES: Final = Path(__file__).parent.parent / "examples"
CHAT: Final = "chat-abc123"
SECONDS: Final = 30


class Program:
    """One that runs; `line` is what it prints next, both streams together."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process: Final = process

    @classmethod
    async def start(cls, *command: str | Path, **variables: str) -> Self:
        return cls(
            await asyncio.create_subprocess_exec(
                *command,
                env=environment(PYTHONUNBUFFERED="1", **variables),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def line(self) -> str:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), SECONDS)
        assert line, "it has ended"
        return line.decode().rstrip("\n")

    async def until(self, pattern: str) -> str:
        """The next line that has it."""
        while not re.search(pattern, line := await self.line()):
            print(line)  # read where the test fails
        return line

    async def rest(self) -> str:
        """What else it prints until it ends, which it must do with 0."""
        printed, _ = await asyncio.wait_for(self._process.communicate(), SECONDS)
        assert self._process.returncode == 0, printed.decode()
        return printed.decode()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    data = tmp_path / "data"
    async with Service(data, mint(data, [BACK_END, "alice", "bob"])) as running:
        await running.start()
        await grant(running, "alice", "owner")
        await grant(running, "bob", "member")
        yield running


async def request(service: Service, user: str, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.tokens[user]}"}
    async with httpx.AsyncClient() as client:
        return await client.request(method, service.http_url + path, headers=headers, **more)


async def grant(service: Service, user: str, role: str) -> None:
    wanted = {"userId": user, "chatId": CHAT, "role": role}
    assert (await request(service, BACK_END, "POST", "/permissions", json=wanted)).status_code == 200


async def publish(service: Service, content: str, user: str = "alice") -> int:
    """The status."""
    payload = {"chatId": CHAT, "eventType": "chat", "content": content}
    wanted = {"messageType": "fifo", "payload": payload}
    return (await request(service, user, "POST", "/publish", json=wanted)).status_code


async def history(service: Service) -> list[str]:
    page = (await request(service, BACK_END, "GET", f"/messages?chatId={CHAT}&order=asc")).json()
    return [message["payload"]["content"] for message in page["messages"]]


def python(service: Service, name: str, *arguments: str, user: str = "alice") -> Any:
    return Program.start(sys.executable, EXAMPLES / name, *arguments, URL=service.http_url, TOKEN=service.tokens[user])


async def test_the_reader_misses_nothing_while_the_service_is_killed(service: Service) -> None:
    await publish(service, "one")
    async with await python(service, "reader.py", CHAT, "--from", "1", "--count", "4") as reader:
        assert await reader.line() == '1 alice "one"'
        await publish(service, "two")
        assert await reader.line() == '2 alice "two"'
        service.kill()
        await reader.until("dropped")
        await service.start()
        await publish(service, "three")
        assert await reader.until("^3") == '3 alice "three"'
        await publish(service, "four")
        assert await reader.until("^4") == '4 alice "four"'
        assert await reader.rest() == ""


SHORT_LIVED: Final = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import reader
least, most = reader.LIFE
assert (least / 60, most / 60, reader.PING_EACH / 60) == (90, 115, 8)
reader.LIFE, reader.PING_EACH = (0.2, 0.6), 0.1
class Reader(reader.Reader):
    async def follow(self):
        print("anew", flush=True)
        await super().follow()
asyncio.run(Reader(reader.os.environ["URL"], sys.argv[2], 0, 4).read())
"""


async def test_the_reader_connects_anew_at_a_random_time_and_misses_nothing(service: Service) -> None:
    """As on AWS, with fractions of a second for its minutes."""
    async with await Program.start(
        sys.executable,
        "-c",
        SHORT_LIVED,
        EXAMPLES,
        CHAT,
        URL=service.http_url,
        TOKEN=service.tokens["alice"],
    ) as reader:
        for number in range(1, 5):
            await reader.until("^anew")
            await publish(service, str(number))
            assert await reader.until(r"^\d") == f'{number} alice "{number}"'
        assert await reader.rest() == ""


async def test_the_reader_fills_what_a_replay_leaves_out(service: Service) -> None:
    content = "x" * 100_000
    for _ in range(100):  # 10 MB: over the 8 MiB of a replay
        assert await publish(service, content) == 202
    async with await python(service, "reader.py", CHAT, "--from", "1", "--count", "100") as reader:
        printed = await reader.rest()
    assert [int(line.split()[0]) for line in printed.splitlines()] == list(range(1, 101))


async def test_the_publisher_publishes_once_although_the_first_answer_is_lost(service: Service) -> None:
    service.kill()
    await service.start("publish.before_ack=kill@1")
    async with await python(service, "publisher.py", CHAT, "shipped", "--id", "order-4711") as publisher:
        await service.ended(SECONDS)
        await service.start()
        assert re.fullmatch(r"[0-9a-f-]{36} \(was there already\)\n", await publisher.rest())
    assert await history(service) == ["shipped"]


async def test_the_moderator_takes_the_role_of_who_says_the_word(service: Service) -> None:
    async with await python(service, "moderator.py", CHAT, "spam") as moderator:
        assert await moderator.line() == "listening"
        await publish(service, "good morning", "bob")
        await publish(service, "buy SPAM", "bob")
        assert await moderator.line() == "bob is out; the last number that reached him is 2 at most"
        assert await publish(service, "hello?", "bob") == 403
        await publish(service, "spam again", "alice")
        assert await moderator.line() == "alice stays: last_owner"


NODE_CLIENT: Final = """
const { Tocsin } = await import(process.env.MODULE);
const tocsin = new Tocsin(process.env.URL.replace("http", "ws"), async () => process.env.TOKEN);
tocsin.onmessage = ({ sequenceNumber, payload }) => console.log(sequenceNumber, payload.content);
tocsin.onstate = (name, code) => console.log(name, code ?? "");
tocsin.onrevoked = chatId => { console.log("revoked", chatId); tocsin.close(); };
tocsin.listen(process.env.CHAT, 0);
const ack = await tocsin.publish({ chatId: process.env.CHAT, eventType: "chat", content: "from node" });
console.log("ack", ack.duplicate);
"""


SHORT_LIVED_NODE: Final = """
const { Tocsin } = await import(process.env.MODULE);
console.log(Tocsin.life.map(time => time / 60_000).join(), Tocsin.pingEach / 60_000);
Tocsin.life = [200, 400];
Tocsin.pingEach = 100;
const tocsin = new Tocsin(process.env.URL.replace("http", "ws"), async () => process.env.TOKEN);
tocsin.onmessage = ({ sequenceNumber }) => { console.log(sequenceNumber); if (sequenceNumber === 4) tocsin.close(); };
tocsin.onstate = name => console.log(name);
tocsin.listen(process.env.CHAT, 0);
"""


async def test_the_browsers_client_connects_anew_at_a_random_time_too(
    service: Service, program: Callable[[str], Path]
) -> None:
    async with await Program.start(
        program("node"),
        "--experimental-websocket",
        "--no-warnings",
        "--input-type=module",
        "--eval",
        SHORT_LIVED_NODE,
        MODULE=(EXAMPLES / "browser" / "tocsin.js").as_uri(),
        URL=service.http_url,
        TOKEN=service.tokens["bob"],
        CHAT=CHAT,
    ) as node:
        assert await node.line() == "90,115 8"
        for number in range(1, 5):
            await node.until("^open")
            await publish(service, str(number))
            await node.until(f"^{number}$")
            await node.until("^closed")
        assert await node.rest() == ""


async def test_the_browsers_client_resumes_in_node(service: Service, program: Callable[[str], Path]) -> None:
    await publish(service, "one")
    async with await Program.start(
        program("node"),
        "--experimental-websocket",
        "--no-warnings",
        "--input-type=module",
        "--eval",
        NODE_CLIENT,
        MODULE=(EXAMPLES / "browser" / "tocsin.js").as_uri(),
        URL=service.http_url,
        TOKEN=service.tokens["bob"],
        CHAT=CHAT,
    ) as node:
        await node.until("^1 one")
        assert {await node.until("^(ack|2)"), await node.until("^(ack|2)")} == {"ack false", "2 from node"}
        service.kill()
        await node.until("^closed")
        await service.start()
        await publish(service, "three")
        await node.until("^3 three")
        await request(service, "alice", "DELETE", f"/permissions?userId=bob&chatId={CHAT}")
        await node.until("^revoked chat-abc123")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a web server for the folder's files."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class Page:
    """A page in Chromium, over its DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket: Final = socket
        self._last = 0

    async def call(self, method: str, **parameters: object) -> Any:
        self._last += 1
        await self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        answer = await self._next(lambda frame: frame.get("id") == self._last)
        assert "result" in answer, answer
        return answer["result"]

    async def _next(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            while True:
                frame: dict[str, Any] = json.loads(await self._socket.recv())
                if wanted(frame):
                    return frame

    async def open(self, url: str) -> None:
        """Returns when all of it is loaded, and its scripts have run."""
        await self.call("Page.enable")
        await self.call("Page.navigate", url=url)
        await self._next(lambda frame: frame.get("method") == "Page.loadEventFired")

    async def evaluate(self, expression: str) -> Any:
        """The value of the expression, or of its promise."""
        result = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Returns when it is true; the page looks whenever its document changes."""
        await self.evaluate(
            f"""new Promise(resolve => {{
                const look = () => {{ if ({expression}) {{ observer.disconnect(); resolve(); }} }};
                const observer = new MutationObserver(look);
                observer.observe(document, {{ subtree: true, childList: true, characterData: true }});
                look();
            }})"""
        )


async def test_the_page_shows_in_a_browser_what_is_said(
    service: Service, program: Callable[[str], Path], tmp_path: Path
) -> None:
    await publish(service, "<b>one</b>")
    with served(EXAMPLES / "browser") as url:
        async with await Program.start(
            program("chromium"),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={tmp_path / 'chromium'}",
            "about:blank",
        ) as chromium:
            address = (await chromium.until("DevTools listening")).rpartition(" ")[2]
            async with httpx.AsyncClient() as client:
                host = address.removeprefix("ws://").partition("/")[0]
                (target,) = [
                    each for each in (await client.get(f"http://{host}/json")).json() if each["type"] == "page"
                ]
            async with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
                page = Page(socket)
                await page.open(url)
                await page.evaluate(
                    f"""{{
                    const form = document.querySelector("#connect");
                    form.url.value = {json.dumps(service.socket_url)};
                    form.chat.value = {json.dumps(CHAT)};
                    form.token.value = {json.dumps(service.tokens["bob"])};
                    form.requestSubmit();
                }}"""
                )
                await page.until("document.querySelector('li')?.textContent === 'alice: <b>one</b>'")
                await page.evaluate(
                    """{
                    const form = document.querySelector("#say");
                    form.content.value = "from a browser";
                    form.requestSubmit();
                }"""
                )
                await page.until("document.querySelector('li')?.textContent === 'bob: from a browser'")
                assert await page.evaluate("document.querySelector('li').dataset.number") == "2"
    assert await history(service) == ["<b>one</b>", "from a browser"]
