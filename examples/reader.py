"""A client that misses nothing: every numbered message of a chat, in order, once, through every drop.

    python examples/reader.py CHAT [--from N] [--count N]       URL and TOKEN (or TOKEN_FILE) in the environment

What it keeps is two things: the highest number up to which it has everything, and the epoch that goes with it. It also
does what a service on AWS asks for: `sync` first, a `ping` now and then, and a new connection before the old one ends.
"""

import argparse
import asyncio
import json
import os
import random
import sys
from collections import deque
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
#: Seconds. On AWS a silent connection ends after 10 minutes, and each after 2 hours: then all that began together end.
PING_EACH = 8 * 60
LIFE = (90 * 60, 115 * 60)
#: Coming back would not help.
FINAL_CODES = (4400, 4403)
FINAL_STATUSES = (400, 401, 403)

Frame = dict[str, Any]


def token() -> str:
    """Read anew each time, so that a file may be renewed while this runs."""
    path = os.environ.get("TOKEN_FILE")
    return Path(path).read_text().strip() if path else os.environ["TOKEN"]


class Reader:
    def __init__(self, url: str, chat_id: str, last: int | None, count: int | None) -> None:
        self.url = url
        self.chat_id = chat_id
        self.last = last
        self.epoch: str | None = None
        self.count = count
        self.tries = 0
        self.seen: deque[str] = deque(maxlen=1_000)

    async def read(self) -> None:
        """Until `count` messages were shown; without it, until there is no use in coming back."""
        while self.count != 0:
            wait = 0.0
            try:
                await self.follow()
            except InvalidStatus as refused:
                if refused.response.status_code in FINAL_STATUSES:
                    raise SystemExit(f"refused: {refused.response.body.decode()}") from None
                wait = float(refused.response.headers.get("Retry-After", 0))
            except ConnectionClosed as closed:
                code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
                if code in FINAL_CODES:
                    raise SystemExit(f"closed for good: {code} {reason}") from None
                if reason.startswith("retryAfter="):
                    wait = int(reason.removeprefix("retryAfter=")) / 1000
            except OSError:
                pass  # nobody listens there just now
            else:
                continue  # its time was over, or all is shown
            # With chance in it, or all clients of a service that restarts come back in the same moment.
            pause = max(wait, random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**self.tries)))
            self.tries += 1
            print(f"-- dropped; back in {pause:.1f} s", file=sys.stderr, flush=True)
            await asyncio.sleep(pause)

    async def follow(self) -> None:
        """Until the connection has lived long enough."""
        wanted: Frame = {"action": "sync", "chats": {self.chat_id: self.last}}
        if self.epoch is not None:
            wanted["epoch"] = self.epoch
        url = self.url.replace("http", "ws", 1)
        async with connect(url, additional_headers={"Authorization": f"Bearer {token()}"}) as socket:
            await socket.send(json.dumps(wanted))
            pinging = asyncio.create_task(self.ping(socket))
            ends = asyncio.get_running_loop().time() + random.uniform(*LIFE)
            try:
                while self.count != 0:
                    async with asyncio.timeout_at(ends):
                        frame = json.loads(await socket.recv())
                    await self.take(frame, socket)
            except TimeoutError:
                pass
            finally:
                pinging.cancel()

    async def ping(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(PING_EACH)
            await socket.send(json.dumps({"action": "ping"}))

    async def take(self, frame: Frame, socket: ClientConnection) -> None:
        match frame.get("type"):
            case "message":
                self.show(frame)
            case "subscribed":
                if self.epoch not in (None, frame["epoch"]):
                    print("-- the service was restored from a copy: its numbers begin anew", file=sys.stderr)
                self.last, self.epoch, self.tries = frame["headSequence"], frame["epoch"], 0
            case "gap" if "from" in frame:
                await asyncio.to_thread(self.fill, frame["from"], frame["to"])
            case "tokenExpiring":
                await socket.send(json.dumps({"action": "refreshToken", "token": token()}))
            case "revoked":
                raise SystemExit("you may no longer read this chat")
            case "error" if frame.get("close", FINAL_CODES[0]) not in FINAL_CODES:
                await socket.close()  # AWS has no close codes of ours
            case "error":
                raise SystemExit(f"{frame['code']}: {frame['message']}")

    def show(self, message: Frame) -> None:
        number = message.get("sequenceNumber")
        if self.count == 0 or (number is not None and self.last is not None and number <= self.last):
            return
        if message["messageId"] in self.seen:  # without a number, and delivered again
            return
        self.seen.append(message["messageId"])
        print(number or "-", message["senderId"], json.dumps(message["payload"]["content"]), flush=True)
        if number is not None:
            self.last = number
        if self.count is not None:
            self.count -= 1

    def fill(self, first: int, last: int) -> None:
        """What this connection was not sent is in history, unless it has expired."""
        key = ""
        while key is not None:
            query = f"chatId={quote(self.chat_id)}&fromSequence={first}&toSequence={last}{key and f'&startKey={key}'}"
            request = Request(f"{self.url}/messages?{query}", headers={"Authorization": f"Bearer {token()}"})
            try:
                with urlopen(request) as answer:
                    page = json.load(answer)
            except HTTPError as error:
                raise SystemExit(f"history: {error.read().decode()}") from None
            for message in page["messages"]:
                self.show(message)
            key = page["nextStartKey"]
        self.last = max(self.last or 0, last)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("chat")
    parser.add_argument("--from", dest="first", type=int, help="from this number on; else what comes from now on")
    parser.add_argument("--count", type=int, help="end after so many messages")
    given = parser.parse_args()
    after = None if given.first is None else max(0, given.first - 1)
    asyncio.run(Reader(os.environ["URL"], given.chat, after, given.count).read())
