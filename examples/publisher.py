"""A back end that publishes once, whatever happens on the way.

    python examples/publisher.py CHAT CONTENT [--id ID]       URL and TOKEN in the environment

A 4xx is definite: the message is wrong, or not allowed. 429 and 507 are definite, too, and worth another try later.
Everything else (5xx, a cut connection, silence) leaves open what happened: the same id again finds it out.
"""

import argparse
import json
import os
import random
import time
import uuid
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT = 10.0
TRIES = 8
LONGEST_PAUSE = 30.0


class Refused(Exception):
    """Definite: it was not stored, and will not be like this."""


def publish(url: str, token: str, payload: dict[str, Any], identifier: str) -> dict[str, Any]:
    """The receipt: messageId, timestamp, and whether an earlier try had been stored after all."""
    request = Request(
        f"{url}/publish",
        json.dumps({"targetChannel": "WebSocket", "messageType": "fifo", "payload": payload}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": identifier},
    )
    for number in range(TRIES):
        wait = 0.0
        try:
            with urlopen(request, timeout=TIMEOUT) as answer:
                receipt: dict[str, Any] = json.load(answer)
                return receipt
        except HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise Refused(error.read().decode()) from None
            wait = float(error.headers.get("Retry-After", 0))
        except (OSError, HTTPException):
            pass  # unknown
        time.sleep(max(wait, random.uniform(0, min(LONGEST_PAUSE, 0.25 * 2**number))))
    raise TimeoutError(f"no answer in {TRIES} tries; whether {identifier} was published is unknown")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("chat")
    parser.add_argument("content")
    parser.add_argument("--id", default=str(uuid.uuid4()), help="what makes it one message, such as order-4711-shipped")
    given = parser.parse_args()
    content = {"chatId": given.chat, "eventType": "notification", "content": given.content}
    try:
        receipt = publish(os.environ["URL"], os.environ["TOKEN"], content, given.id)
    except (Refused, TimeoutError) as error:
        raise SystemExit(str(error)) from None
    print(receipt["messageId"], "(was there already)" if receipt["duplicate"] else "")
