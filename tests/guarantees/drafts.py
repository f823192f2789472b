"""Messages to be: a seed -> drafts for publishers.py.

Rule: no two have the same payload (records.py).
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from tests.guarantees import records

#: What the processor is made to fail on, and the failpoint that does it.
POISON: Final = "nightshade"
FAIL_ON_POISON: Final = f"processor.before_audience=raise~{POISON}"
#: Stands in every payload, and must stand in nothing that the service prints.
PRIVATE: Final = "between you and me"


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be; `payload` is sent as it stands."""

    chat: str
    payload: bytes
    message_type: Literal["standard", "fifo"] = "fifo"
    requests_number: bool = False
    dedupe_id: str | None = None

    @property
    def digest(self) -> str:
        return records.digest(self.payload)

    @property
    def is_poison(self) -> bool:
        return POISON.encode() in self.payload

    @property
    def numbered(self) -> bool:
        return self.message_type == "fifo" or self.requests_number

    def body(self, request_id: str | None = None) -> bytes:
        """The publish object; as a `sendMessage` action if there is a request id."""
        fields = b'"messageType":"%b","payload":%b' % (self.message_type.encode(), self.payload)
        if self.dedupe_id is not None:
            fields += b',"messageDeduplicationId":"%b"' % self.dedupe_id.encode()
        if request_id is not None:
            fields += b',"action":"sendMessage","requestId":"%b"' % request_id.encode()
        return b"{" + fields + b"}"


def draft(chat: str, label: str, **options: object) -> Draft:
    payload = json.dumps({"chatId": chat, "eventType": "one", "content": f"{label} {PRIVATE}"}).encode()
    return msgspec.structs.replace(Draft(chat=chat, payload=payload), **options)


def drafts(name: str, chats: Sequence[str], seed: int) -> Iterator[Draft]:
    """Without end, all different: both types, with and without numbers and ids; a re-encoding would alter the JSON."""
    chance = random.Random(seed)
    for count in range(1 << 60):
        chat = chance.choice(chats)
        content = b'{"label":"%b-%d","text":"%b \\u00e9\\/","n":12345678901234567890.50E+3,"pad":"%b"}' % (
            name.encode(),
            count,
            f"é ☃ {PRIVATE}".encode(),
            b"x" * chance.choice((0, 40, 400, 2000)),
        )
        number = chance.random() < 0.15
        if number:
            payload = b'{"requestSequence": true ,"content":%b,"eventType":"load","chatId":"%b"}'
        else:
            payload = b'{ "content" : %b, "eventType":"load","chatId":"%b"}'
        yield Draft(
            chat=chat,
            payload=payload % (content, chat.encode()),
            message_type="fifo" if chance.random() < 0.6 else "standard",
            requests_number=number,
            dedupe_id=f"{name}-{count}" if chance.random() < 0.6 else None,
        )
