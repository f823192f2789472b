"""Bad input and what is due for it, as tables. Every answer is a line of docs/wire.md."""

import json
from collections.abc import Mapping
from typing import Final

import msgspec

from tests.guarantees import raw
from tests.guarantees.traffic import ROOMS

ROOM: Final = ROOMS[0]
ELSEWHERE: Final = "somebody-elses"
DEEP: Final = b"[" * 100_000
GOOD: Final = b'{"payload":{"chatId":"%b","eventType":"e","content":1}}' % ROOM.encode()


class Bad(msgspec.Struct, frozen=True, kw_only=True):
    """A request and the refusal that is due; None: not said by the contract. `{token}` stands for a user's token."""

    name: str
    head: tuple[str, ...]
    status: int
    code: str | None = None
    field: str | None = None
    body: bytes = b""
    user: str = "alice"
    headers: tuple[str, ...] = ()
    upgrade: bool = False

    def sent(self, tokens: Mapping[str, str]) -> bytes:
        method, target, *headers = (part.replace("{token}", tokens[self.user]) for part in self.head)
        if self.upgrade:
            return raw.upgrade(target, *headers)
        return raw.request(method, target, *headers, body=self.body)


class BadFrame(msgspec.Struct, frozen=True, kw_only=True):
    text: bytes
    code: str
    field: str | None = None
    chat: str | None = None
    #: The requestId that the error repeats.
    answers: str | None = None
    opcode: int = raw.TEXT


TOKEN: Final = "Authorization: Bearer {token}"


def publish(name: str, body: bytes, status: int, code: str, field: str | None = None, *headers: str) -> Bad:
    head = ("POST", "/dvl/publish", TOKEN, *headers)
    return Bad(name=name, head=head, body=body, status=status, code=code, field=field)


def get(target: str, status: int, code: str, field: str | None = None, user: str = "alice") -> Bad:
    return Bad(name=target, head=("GET", f"/dvl{target}", TOKEN), status=status, code=code, field=field, user=user)


def post(target: str, body: object, status: int, code: str, field: str | None = None, *headers: str) -> Bad:
    encoded = json.dumps(body).encode()
    head = ("POST", f"/dvl{target}", TOKEN, *headers)
    name = f"{target} {encoded[:60]!r}"
    return Bad(name=name, head=head, body=encoded, status=status, code=code, field=field, user="service")


def changed(**fields: object) -> bytes:
    """A good publish object with other fields, or without those that are None."""
    whole = json.loads(GOOD) | fields
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


def payload(**fields: object) -> bytes:
    whole = json.loads(GOOD)["payload"] | fields
    return changed(payload={name: value for name, value in whole.items() if value is not None})


MESSAGES: Final = f"/messages?chatId={ROOM}"
BATCH: Final = json.loads(GOOD)

REQUESTS: Final[list[Bad]] = [
    # Where and who.
    Bad(name="outside", head=("GET", "/"), status=404, code="not_found"),
    Bad(name="unknown path", head=("GET", "/dvl/nothing", TOKEN), status=404, code="not_found"),
    Bad(
        name="wrong method",
        head=("PUT", "/dvl/publish", TOKEN),
        status=405,
        code="method_not_allowed",
        headers=("allow",),
    ),
    Bad(name="unknown method", head=("BREW", "/dvl/publish", TOKEN), status=405, headers=("allow",)),
    Bad(
        name="no token",
        head=("GET", f"/dvl{MESSAGES}"),
        status=401,
        code="unauthorized",
        headers=("www-authenticate",),
    ),
    Bad(name="basic", head=("GET", f"/dvl{MESSAGES}", "Authorization: Basic YTpi"), status=401),
    Bad(name="no jwt", head=("GET", f"/dvl{MESSAGES}", "Authorization: Bearer a"), status=401, code="invalid_token"),
    Bad(name="padded", head=("GET", f"/dvl{MESSAGES}", TOKEN + "="), status=401, code="invalid_token"),
    Bad(
        name="alg none",
        head=("GET", f"/dvl{MESSAGES}", "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."),
        status=401,
        code="invalid_token",
    ),
    Bad(
        name="a token too long",
        head=("GET", f"/dvl{MESSAGES}", "Authorization: Bearer " + "a" * 9_000),
        status=401,
        code="invalid_token",
    ),
    Bad(name="two tokens", head=("GET", f"/dvl{MESSAGES}", TOKEN, TOKEN), status=400),
    Bad(
        name="a head too large",
        head=("GET", f"/dvl{MESSAGES}", "X-Pad: " + "a" * 70_000),
        status=431,
        code="bad_request",
    ),
    get(f"/messages?chatId={ELSEWHERE}", 403, "forbidden"),
    get("/permissions?userId=bob", 403, "forbidden"),
    Bad(name="not his", head=("GET", "/dvl/@connections/x", TOKEN), status=403),
    Bad(name="gone", head=("GET", "/dvl/@connections/x", TOKEN), status=410, user="service", code="gone"),
    # JSON.
    publish("no json", b"{", 400, "invalid_json"),
    publish("text behind", GOOD + b"x", 400, "invalid_json"),
    publish("duplicate key", GOOD[:-1] + b',"messageType":"fifo","messageType":"fifo"}', 400, "invalid_json"),
    publish("a deep duplicate key", GOOD.replace(b":1}", b':{"a":[{"b":1,"b":1}]}}'), 400, "invalid_json"),
    publish("an escaped duplicate key", GOOD.replace(b":1}", b':{"a":1,"\\u0061":1}}'), 400, "invalid_json"),
    publish("NaN", GOOD.replace(b":1}", b":NaN}"), 400, "invalid_json"),
    publish("Infinity", GOOD.replace(b":1}", b":-Infinity}"), 400, "invalid_json"),
    publish("BOM", b"\xef\xbb\xbf" + GOOD, 400, "invalid_json"),
    publish("no UTF-8", GOOD.replace(b":1}", b':"\xff"}'), 400, "invalid_json"),
    publish("lone surrogate", GOOD.replace(b":1}", b':"\\ud800"}'), 400, "invalid_json"),
    publish("UTF-16", GOOD.decode().encode("utf-16"), 400, "invalid_json"),
    publish("too deep", GOOD.replace(b":1}", b":" + b"[" * 33 + b"]" * 33 + b"}"), 400, "invalid_json"),
    publish("far too deep", DEEP, 400, "invalid_json"),
    publish("another type", GOOD, 415, "unsupported_media_type", None, "Content-Type: text/plain"),
    publish("too large", payload(content="x" * 131_072), 413, "message_too_large"),
    # The publish object.
    publish("a list", b"[]", 400, "invalid_argument"),
    publish("unknown field", changed(colour=1), 400, "invalid_argument", "colour"),
    publish("no payload", changed(payload=None), 400, "invalid_argument", "payload"),
    publish("payload is text", changed(payload="x"), 400, "invalid_argument", "payload"),
    publish("no chat", payload(chatId=None), 400, "invalid_argument", "payload.chatId"),
    publish("a chat's number", payload(chatId=1), 400, "invalid_argument", "payload.chatId"),
    publish("a chat with a blank", payload(chatId="a b"), 400, "invalid_argument", "payload.chatId"),
    publish("an empty chat", payload(chatId=""), 400, "invalid_argument", "payload.chatId"),
    publish("a long chat", payload(chatId="a" * 129), 400, "invalid_argument", "payload.chatId"),
    publish("no event", payload(eventType=None), 400, "invalid_argument", "payload.eventType"),
    publish("a long event", payload(eventType="e" * 129), 400, "invalid_argument", "payload.eventType"),
    publish("no content", payload(content=None), 400, "invalid_argument", "payload.content"),
    publish("a wish for a number", payload(requestSequence=1), 400, "invalid_argument", "payload.requestSequence"),
    publish("another order", changed(messageType="lifo"), 400, "invalid_argument", "messageType"),
    publish("a strange channel", changed(targetChannel="a/b"), 400, "invalid_argument", "targetChannel"),
    publish(
        "no numbers there",
        changed(targetChannel="Email", payload=json.loads(payload(requestSequence=True))["payload"]),
        400,
        "invalid_argument",
    ),
    publish("an empty id", changed(messageDeduplicationId=""), 400, "invalid_argument", "messageDeduplicationId"),
    publish("a long id", changed(messageDeduplicationId="i" * 129), 400, "invalid_argument", "messageDeduplicationId"),
    publish("two ids", changed(messageDeduplicationId="a"), 400, "invalid_argument", None, "Idempotency-Key: b"),
    publish("forbidden", payload(chatId=ELSEWHERE), 403, "forbidden"),
    post("/publish/batch", {"messages": []}, 400, "invalid_argument", "messages"),
    post("/publish/batch", {"messages": [BATCH] * 501}, 400, "invalid_argument", "messages"),
    post("/publish/batch", {"messages": [BATCH]}, 400, "invalid_argument", None, "Idempotency-Key: b"),
    # History.
    get("/messages", 400, "invalid_argument", "chatId"),
    get(f"{MESSAGES}&chatId={ROOM}", 400, "invalid_argument", "chatId"),
    get(f"{MESSAGES}&colour=1", 400, "invalid_argument", "colour"),
    *[
        get(f"{MESSAGES}&limit={limit}", 400, "invalid_argument", "limit")
        for limit in ("0", "1001", "x", "-1", "1.0", "")
    ],
    *[
        get(f"{MESSAGES}&fromSequence={number}", 400, "invalid_argument", "fromSequence")
        for number in ("-1", "x", "1e3")
    ],
    get(f"{MESSAGES}&fromSequence=3&toSequence=2", 400, "invalid_argument"),
    get(f"{MESSAGES}&fromSequence=1&order=desc", 400, "invalid_argument"),
    get(f"{MESSAGES}&fromSequence=1&toTimestamp=2026-01-01T00:00:00Z", 400, "invalid_argument"),
    get(f"{MESSAGES}&fromTimestamp=yesterday", 400, "invalid_argument", "fromTimestamp"),
    get(f"{MESSAGES}&fromTimestamp=2026-01-02T00:00:00Z&toTimestamp=2026-01-01T00:00:00Z", 400, "invalid_argument"),
    get(f"{MESSAGES}&order=up", 400, "invalid_argument", "order"),
    *[get(f"{MESSAGES}&startKey={key}", 400, "invalid_cursor") for key in ("x", "AAAA", "e30", "a" * 2_000)],
    # Permissions, metrics, tickets.
    get("/permissions", 400, "invalid_argument", user="service"),
    get("/permissions?chatId=a%20b", 400, "invalid_argument", "chatId", user="service"),
    post("/permissions", {"userId": "x", "chatId": "y", "role": "king"}, 400, "invalid_argument", "role"),
    post("/permissions", {"userId": "x" * 121, "chatId": "y", "role": "member"}, 400, "invalid_argument", "userId"),
    post("/permissions", {"userId": "x", "chatId": "y"}, 400, "invalid_argument", "role"),
    Bad(name="whom", head=("DELETE", "/dvl/permissions?chatId=y", TOKEN), status=400, user="service", field="userId"),
    Bad(name="never", head=("DELETE", "/dvl/permissions?chatId=y&userId=x", TOKEN), status=404, user="service"),
    post("/metrics", {"metrics": []}, 400, "invalid_argument", "metrics"),
    post("/metrics", {"metrics": [{"name": "unheard of", "value": 1}]}, 400, "invalid_argument", "metrics[0].name"),
    post("/tickets", {"chatIds": ["a b"]}, 400, "invalid_argument"),
]


def odd_upgrade(name: str, due: str, odd: str, status: int, code: str) -> Bad:
    """An upgrade with `odd` in the place of the header line `due`."""
    lines = [odd if line == due else line for line in raw.UPGRADE]
    return Bad(name=name, head=("GET", "/dvl", TOKEN, *lines), status=status, code=code)


def upgrade(target: str, status: int, code: str | None, *headers: str, user: str = "alice") -> Bad:
    head = ("GET", f"/dvl{target}", *headers)
    return Bad(name=f"{target} {headers}", head=head, status=status, code=code, upgrade=True, user=user)


UPGRADES: Final[list[Bad]] = [
    upgrade("", 401, "unauthorized"),
    upgrade("?token=a.b.c", 401, "invalid_token"),
    upgrade("?ticket=unheard-of", 401, "invalid_ticket"),
    upgrade("?ticket=first-found-counts&token={token}", 401, "invalid_ticket"),
    upgrade("?userId=bob", 403, "forbidden", TOKEN),
    upgrade(f"?chatId={ELSEWHERE}", 403, "forbidden", TOKEN),
    upgrade(f"?chatId={ROOM}&chatId={ELSEWHERE}", 403, "forbidden", TOKEN),
    upgrade("?chatId=a%20b", 400, "invalid_argument", TOKEN),
    upgrade("?lastSequence=1", 400, "invalid_argument", TOKEN),
    upgrade(f"?chatId={ROOM}&chatId={ROOMS[1]}&lastSequence=1", 400, "invalid_argument", TOKEN),
    *[upgrade(f"?chatId={ROOM}&lastSequence={last}", 400, "invalid_argument", TOKEN) for last in ("-1", "1.5", "x")],
    Bad(name="no upgrade", head=("GET", f"/dvl?chatId={ROOM}", TOKEN), status=426, code="upgrade_required"),
    Bad(name="no upgrade, no token", head=("GET", "/dvl"), status=401, code="unauthorized"),
    odd_upgrade("no key", raw.UPGRADE[3], "X-Key: x", 400, "bad_request"),
    odd_upgrade("a bad key", raw.UPGRADE[3], "Sec-WebSocket-Key: x", 400, "bad_request"),
    odd_upgrade("an old version", raw.UPGRADE[2], "Sec-WebSocket-Version: 8", 426, "upgrade_required"),
]


def action(name: str, code: str, field: str | None = None, chat: str | None = None, **fields: object) -> BadFrame:
    text = json.dumps({"action": name, "requestId": f"r {name}", **fields}).encode()
    return BadFrame(text=text, code=code, field=field, chat=chat, answers=f"r {name}")


FRAMES: Final[list[BadFrame]] = [
    BadFrame(text=b"", code="invalid_json"),
    BadFrame(text=b"hello", code="invalid_json"),
    BadFrame(text=DEEP, code="invalid_json"),
    BadFrame(text=b'{"action":"ping","colour":' + DEEP + b"}", code="invalid_json"),
    BadFrame(text=b'{"action":"ping","action":"ping"}', code="invalid_json"),
    BadFrame(text=b'{"action":"ping"} {}', code="invalid_json"),
    BadFrame(text=b"[]", code="invalid_argument"),
    BadFrame(text=b'{"action":"ping"}', code="unsupported_data", opcode=raw.BINARY),
    BadFrame(text=b'{"action":"ping","requestId":7}', code="invalid_argument", field="requestId"),
    action("fly", "unknown_action"),
    action("$connect", "unknown_action"),
    action("ping", "invalid_argument", "colour", colour=1),
    action("sendMessage", "invalid_argument", "payload"),
    action("sendMessage", "invalid_argument", "payload.chatId", payload={"eventType": "e", "content": 1}),
    action("sendMessage", "invalid_argument", "payload.content", ROOM, payload={"chatId": ROOM, "eventType": "e"}),
    action("sendMessage", "invalid_argument", "messageType", ROOM, payload={"chatId": ROOM}, messageType="lifo"),
    action(
        "sendMessage",
        "forbidden",
        None,
        ELSEWHERE,
        payload={"chatId": ELSEWHERE, "eventType": "e", "content": 1},
    ),
    action("subscribe", "invalid_argument", "chatId"),
    action("subscribe", "forbidden", None, ELSEWHERE, chatId=ELSEWHERE),
    *[
        action("subscribe", "invalid_argument", "lastSequence", chatId=ROOM, lastSequence=last)
        for last in (-1, 1.5, "1", True, 1 << 80)
    ],
    action("unsubscribe", "invalid_argument", "chatId", chatId="a b"),
    action("sync", "invalid_argument", "chats"),
    action("sync", "invalid_argument", "chats", chats={f"c{count}": None for count in range(301)}),
    action("sync", "invalid_argument", f"chats.{ROOM}", ROOM, chats={ROOM: "1"}),
    action("sync", "forbidden", None, ELSEWHERE, chats={ELSEWHERE: None}),
    action("refreshToken", "invalid_token", token="a.b.c"),
    action("refreshToken", "invalid_argument", "token"),
]

VIOLATIONS: Final[list[tuple[str, bytes, int]]] = [
    ("unmasked", raw.frame(raw.TEXT, b"{}", masked=False), 1002),
    ("reserved bits", raw.frame(raw.TEXT, b"{}", reserved=0x40), 1002),
    ("unknown opcode", raw.frame(0x3, b"{}"), 1002),
    ("a ping in parts", raw.frame(raw.PING, b"", final=False), 1002),
    ("a long ping", raw.frame(raw.PING, b"x" * 126), 1002),
    ("a continuation of nothing", raw.frame(0x0, b"{}"), 1002),
    ("a text within a text", raw.frame(raw.TEXT, b"{", final=False) + raw.frame(raw.TEXT, b"}"), 1002),
    ("a close of one byte", raw.frame(raw.CLOSE, b"\x03"), 1002),
    ("no UTF-8", raw.frame(raw.TEXT, b"\xff\xff"), 1007),
    ("too large", raw.frame(raw.TEXT, b" " * 131_073), 1009),
    ("too large in parts", raw.frame(raw.TEXT, b" " * 70_000, final=False) + raw.frame(0x0, b" " * 70_000), 1009),
    ("a terabyte", b"\x81\xff" + (1 << 40).to_bytes(8, "big") + raw.MASK, 1009),
    ("a length beyond all", b"\x81\xff" + b"\xff" * 8 + raw.MASK, 1002),
]
