"""A short journey through a deployed stage: who deploys runs it once, and sees that all parts stand (`make aws-smoke`).

    REST_URL, WEBSOCKET_URL, TOKEN (a person's), BACK_END_TOKEN (a machine's, with our scopes) -> a line for each step

**It was never run on real AWS.** A test runs it against the embedded service, whose contract is the same; by hand it
went through against the emulator (`make aws-local`), too.

Rule: it leaves a chat of its own behind, `smoke-…`, with four messages that expire, and no role in it.
"""

import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from websockets.sync.client import ClientConnection, connect

#: For what takes AWS its time: a cold start, a queue, the minute's job.
SECONDS: Final = 30.0
VARIABLES: Final = ("REST_URL", "WEBSOCKET_URL", "TOKEN", "BACK_END_TOKEN")


class Failed(Exception):
    """What was seen instead."""


class Stage:
    def __init__(self, rest: str, websocket: str, token: str, back_end: str) -> None:
        self.rest = rest.rstrip("/")
        self.websocket = websocket
        self.token = token
        self.back_end = back_end
        self.chat = f"smoke-{secrets.token_hex(6)}"

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> tuple[int, Any]:
        """Status and JSON."""
        headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.rest + path, data, headers, method=method), timeout=SECONDS) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def publish(self, content: str, **more: object) -> tuple[int, Any]:
        payload = {"chatId": self.chat, "eventType": "chat", "content": content}
        return self.ask("POST", "/publish", {"messageType": "fifo", "payload": payload, **more}, self.token)


def main() -> int:
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        print(f"set {', '.join(missing)}: see tests/deploy/smoke.py", file=sys.stderr)
        return 2
    stage = Stage(*[os.environ[name] for name in VARIABLES])
    user = identity_of(stage.token)
    try:
        journey(stage, user)
    except Failed as failure:
        print(f"FAILED {failure}")
        return 1
    print(f"all is well; the chat was {stage.chat}")
    return 0


def journey(stage: Stage, user: str) -> None:
    step("the document needs no token", stage.ask("GET", "/openapi.json")[0], 200)
    step("without a token nothing is read", stage.ask("GET", f"/messages?chatId={stage.chat}")[0], 401)
    role = {"userId": user, "chatId": stage.chat, "role": "member"}
    step("a back end grants a role", stage.ask("POST", "/permissions", role, stage.back_end)[0], 200)
    with connect(f"{stage.websocket}?token={stage.token}", open_timeout=SECONDS) as socket:
        say(socket, {"action": "sync", "chats": {stage.chat: 0}})
        step("a client is subscribed", hear(socket, "subscribed")["headSequence"], 0)
        for number in (1, 2, 3):
            step(
                f"message {number} is accepted", stage.publish(str(number), messageDeduplicationId=f"n{number}")[0], 202
            )
        heard: list[int] = []
        while 3 not in heard:  # SNS and SQS may deliver one twice
            heard.append(hear(socket, "message")["sequenceNumber"])
        step("they are heard in order", list(dict.fromkeys(heard)), [1, 2, 3])
        step(
            "a repeated id is no second message", stage.publish("3", messageDeduplicationId="n3")[1]["duplicate"], True
        )
        payload = {"chatId": stage.chat, "eventType": "chat", "content": "4"}
        say(socket, {"action": "sendMessage", "requestId": "r1", "messageType": "fifo", "payload": payload})
        step("a frame is acknowledged", hear(socket, "ack")["requestId"], "r1")
        step("history has all of it", until(lambda: numbers(stage), [1, 2, 3, 4]), [1, 2, 3, 4])
        gone = stage.ask("DELETE", f"/permissions?userId={user}&chatId={stage.chat}", token=stage.back_end)
        step("the role is taken away", gone[0], 200)
        step("the client is told", hear(socket, "revoked")["chatId"], stage.chat)
        step("and publishes no more", stage.publish("5")[0], 403)


def step(claim: str, seen: object, expected: object) -> None:
    if seen != expected:
        raise Failed(f"{claim}: {seen!r} instead of {expected!r}")
    print(f"ok  {claim}", flush=True)


def say(socket: ClientConnection, frame: object) -> None:
    socket.send(json.dumps(frame))


def hear(socket: ClientConnection, kind: str) -> Any:
    """The next frame of this type."""
    end = time.monotonic() + SECONDS
    while (left := end - time.monotonic()) > 0:
        try:
            frame = json.loads(socket.recv(timeout=left))
        except TimeoutError:
            break
        if frame.get("type") == "error":
            raise Failed(f"{kind} was awaited, and an error came: {frame}")
        if frame.get("type") == kind:
            return frame
    raise Failed(f"no {kind} within {SECONDS:.0f} s")


def numbers(stage: Stage) -> list[int]:
    _, page = stage.ask("GET", f"/messages?chatId={stage.chat}&fromSequence=1", token=stage.token)
    return [message["sequenceNumber"] for message in page.get("messages", [])]


def until(look: Callable[[], object], expected: object) -> object:
    """What it sees at last: what was acknowledged on AWS can be read a little later."""
    end = time.monotonic() + SECONDS
    while (seen := look()) != expected and time.monotonic() < end:
        time.sleep(0.5)
    return seen


def identity_of(token: str) -> str:
    """Of an access token, which is not checked here."""
    part = token.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["sub"])


if __name__ == "__main__":
    sys.exit(main())
