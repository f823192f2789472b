"""The opening handshake (RFC 6455 section 4), pure: a request head in, an `UpgradeRequest` or None out.

    front -> parse_upgrade -> WebSocketConnection -> Application.authorize -> accept_response | refusal_response
                           -> None: uvicorn's protocol reads the same bytes, and the HTTP application answers
                              with `upgrade_fault`, unless it has something to say before it

Rules:
- Only what is ordinary in every byte is an upgrade. Whatever is odd (a folded line, a second Host, a body, another
  method or version) is None: the HTTP side has the words to answer it.
- One regular expression walks the head, possessively: a hostile head costs what an honest one of its length does.
- The query is percent-decoded, and a `+` stays a `+`: chat ids may have one. What does not decode becomes U+FFFD or
  keeps its `%`; no identifier has either, so whoever checks identifiers refuses it.
"""

import binascii
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import msgspec

from tocsin.errors import Refusal

_HEAD: Final = re.compile(
    rb"GET (/[!\"$->@-~]*+)(?:\?([!\"$-~]*+))? HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)++)\r\n"
)
"""A request line in origin form, then the fields (RFC 9112 sections 3.2.1 and 5), and not a byte beside them."""
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
"""Base64 of 16 bytes: of the last digit only two bits count, the others are 0 (RFC 4648 section 3.5)."""
PROTOCOL_VERSION: Final = "13"
"""Of the protocol that RFC 6455 describes; it is the only one."""
_PRINTABLE: Final = re.compile(r"[ -~]{1,128}")
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ONCE: Final = frozenset(("host", "upgrade", "sec-websocket-key", "sec-websocket-version", "content-length"))
_NEVER: Final = frozenset(("transfer-encoding", "trailer", "expect"))
_NONE: Final = ("",)
_NO_BODY: Final = ("0",)


class UpgradeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An ordinary WebSocket upgrade. Header names are in lower case; what came twice is there twice.

    It carries credentials, so nothing logs it.
    """

    path: str
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, Sequence[str]]
    key: str

    def header(self, name: str) -> str | None:
        """The first value of the header `name` (in lower case), None without one."""
        values = self.headers.get(name)
        return values[0] if values else None

    def header_values(self, name: str) -> Sequence[str]:
        """All values of the header `name` (in lower case), one for each line."""
        return self.headers.get(name, ())

    def subprotocols(self) -> list[str]:
        """What the client offers, in the order of its preference (section 4.1)."""
        return _elements(self.header_values("sec-websocket-protocol"))

    def __repr__(self) -> str:
        return f"UpgradeRequest(path={self.path!r})"


def parse_upgrade(head: bytes) -> UpgradeRequest | None:
    """Read a head, its empty last line included; None unless it is an ordinary upgrade (section 4.2.1)."""
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    path, query, fields = match.groups()
    headers: dict[str, list[str]] = {}
    for line in fields.decode("latin-1")[:-2].split("\r\n"):
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name not in headers:
            headers[name] = [value]
        elif name in _ONCE:
            return None
        else:
            headers[name].append(value)
    (key,) = headers.get("sec-websocket-key", _NONE)
    if (
        "host" not in headers
        or headers.get("upgrade", _NONE)[0].lower() != "websocket"
        or headers.get("sec-websocket-version", _NONE)[0] != PROTOCOL_VERSION
        or headers.get("content-length", _NO_BODY)[0] != "0"
        or not _NEVER.isdisjoint(headers)
        or _KEY.fullmatch(key) is None
        or not _asks_to_upgrade(headers.get("connection", ()))
    ):
        return None
    return UpgradeRequest(path=path.decode(), query=_pairs(query or b""), headers=headers, key=key)


def _asks_to_upgrade(connection: Sequence[str]) -> bool:
    return "upgrade" in _elements([value.lower() for value in connection])


def upgrade_fault(request: UpgradeRequest, version: str) -> Refusal:
    """Why a request for where WebSockets are opened is not an ordinary upgrade; `version` is the HTTP version.

    426 if it is none, or one of another version of the protocol; 400 if it is badly made (section 4.2.1).
    """
    values = request.header_values
    is_upgrade = [value.lower() for value in values("upgrade")] == ["websocket"] and _asks_to_upgrade(
        values("connection")
    )
    if version != "1.1" or not is_upgrade:
        wanted = "GET, HTTP/1.1, Upgrade: websocket, Connection: Upgrade"
        return Refusal("upgrade_required", f"This is where WebSockets are opened, and this is no upgrade ({wanted}).")
    keys, versions = values("sec-websocket-key"), values("sec-websocket-version")
    if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
        return _badly_made("Sec-WebSocket-Key", "An upgrade has one key, of 16 bytes in base64.")
    if len(versions) > 1:
        return _badly_made("Sec-WebSocket-Version", "This header may be given once.")
    for name in sorted(_NEVER):
        if values(name):
            return _badly_made(name.title(), "An upgrade may not have this header.")
    if list(values("content-length")) not in ([], ["0"]):
        return _badly_made("Content-Length", "An upgrade has no body.")
    if list(versions) != [PROTOCOL_VERSION]:
        return Refusal(
            "upgrade_required",
            f"Only version {PROTOCOL_VERSION} of the WebSocket protocol is spoken here.",
            field="Sec-WebSocket-Version",
        )
    return _badly_made(None, "An upgrade's target is /path?query, and it waits for the answer to an earlier request.")


def _badly_made(header: str | None, sentence: str) -> Refusal:
    return Refusal("bad_request", sentence, field=header)


def _elements(values: Iterable[str]) -> list[str]:
    """The elements of a comma-separated list, perhaps over several lines (RFC 9110 section 5.6.1)."""
    return [element for value in values for part in value.split(",") if (element := part.strip(" \t"))]


def _pairs(query: bytes) -> list[tuple[str, str]]:
    """`a=1&b` as [("a", "1"), ("b", "")], percent-decoded."""
    pairs = []
    for part in query.decode().split("&"):
        name, _, value = part.partition("=")
        if "%" in part:
            name, value = unquote(name), unquote(value)
        if part:
            pairs.append((name, value))
    return pairs


def requested_id(values: Sequence[str], new_id: Callable[[], str]) -> str:
    """The client's own X-Request-Id if there is one, of 1-128 printable ASCII characters; else a new one."""
    return values[0] if len(values) == 1 and _PRINTABLE.fullmatch(values[0]) else new_id()


def accept_response(key: str, subprotocol: str | None, request_id: str) -> bytes:
    """The 101 answer (section 4.2.2); `subprotocol` is one that the client offered."""
    digest = hashlib.sha1(key.encode() + _ACCEPT_GUID, usedforsecurity=False).digest()
    accept = binascii.b2a_base64(digest, newline=False).decode()
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol is not None else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{chosen}X-Request-Id: {request_id}\r\n\r\n"
    ).encode("latin-1")


def refusal_headers(refusal: Refusal) -> list[tuple[str, str]]:
    """The headers that a refusal asks for, at every door: when to come back, what to bring along, what to ask for."""
    headers = []
    if refusal.retry_after is not None:
        headers.append(("Retry-After", str(math.ceil(refusal.retry_after))))
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    elif refusal.status == HTTPStatus.UPGRADE_REQUIRED:  # RFC 9110 section 15.5.22, RFC 6455 section 4.4
        headers += [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", PROTOCOL_VERSION)]
    return headers


def refusal_body(refusal: Refusal, request_id: str) -> bytes:
    """The JSON of a refusal, at every door: `{"message","code","requestId","field"?}` (docs/wire.md, Errors)."""
    body = {"message": refusal.message, "code": refusal.code, "requestId": request_id}
    if refusal.field is not None:
        body["field"] = refusal.field
    return msgspec.json.encode(body)


def refusal_response(
    status: int, body_json: bytes, request_id: str, extra_headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """A whole HTTP/1.1 answer; the connection is closed after it."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in extra_headers)
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body_json)}\r\nX-Request-Id: {request_id}\r\n{extra}Connection: close\r\n\r\n"
    ).encode("latin-1") + body_json


def render_refusal(refusal: Refusal, request_id: str) -> bytes:
    """The whole HTTP/1.1 answer to a refused request."""
    body = refusal_body(refusal, request_id)
    return refusal_response(refusal.status, body, request_id, refusal_headers(refusal))
