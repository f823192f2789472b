"""The opening handshake, without a socket: what is an ordinary upgrade, and what is answered."""

import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.gateways.peer import KEY, upgrade_head
from tocsin.errors import Refusal
from tocsin.gateways.handshake import (
    accept_response,
    parse_upgrade,
    refusal_headers,
    refusal_response,
    render_refusal,
    requested_id,
)

HEAD = upgrade_head()


def test_an_ordinary_upgrade_is_read() -> None:
    extra = "Origin: https://example.org\r\nX-Two: 1\r\nx-two:2  \r\nX-Empty:\r\n"
    request = parse_upgrade(upgrade_head("/dvl?token=a.b-c&chatId=x&chatId=y", extra))
    assert request is not None
    assert request.path == "/dvl"
    assert request.query == [("token", "a.b-c"), ("chatId", "x"), ("chatId", "y")]
    assert request.key == KEY
    assert request.header("origin") == "https://example.org"
    assert request.header("x-empty") == ""
    assert request.header("x-none") is None
    assert request.header_values("x-two") == ["1", "2"]


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("", []),
        ("a", [("a", "")]),
        ("a=", [("a", "")]),
        ("&&a=1&", [("a", "1")]),
        ("a=b=c", [("a", "b=c")]),
        ("chatId=user%3Aann&chatId=a+b%2Bc", [("chatId", "user:ann"), ("chatId", "a+b+c")]),
        ("na%6De=%C3%A9", [("name", "é")]),
        ("a=%26b=%3D", [("a", "&b==")]),
        ("a=%zz%4", [("a", "%zz%4")]),
        ("a=%ff", [("a", "\ufffd")]),
    ],
)
def test_a_query_is_percent_decoded_and_a_plus_stays_a_plus(query: str, pairs: list[tuple[str, str]]) -> None:
    request = parse_upgrade(upgrade_head(f"/dvl?{query}"))
    assert request is not None
    assert request.query == pairs


ORDINARY = {
    "names and values in any case": HEAD.replace(b"Upgrade: websocket", b"UPGRADE: WebSocket"),
    "several connection options": HEAD.replace(b"Connection: Upgrade", b"Connection: keep-alive, upgrade"),
    "connection options over two lines": upgrade_head(extra="Connection: keep-alive\r\n"),
    "a body of nothing": upgrade_head(extra="Content-Length: 0\r\n"),
    "bytes beyond ASCII in a value": upgrade_head(extra="X-Name: é\r\n"),
    "two authorizations, which the application judges": upgrade_head(extra="Authorization: a\r\nAuthorization: b\r\n"),
}

ODD = {
    "nothing": b"",
    "an empty line": b"\r\n\r\n",
    "a head without its end": HEAD[:-2],
    "bytes behind the end": HEAD + b"x",
    "an empty line before": b"\r\n" + HEAD,
    "another method": HEAD.replace(b"GET", b"POST"),
    "a method in lower case": HEAD.replace(b"GET", b"get"),
    "HTTP/1.0": HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/2": HEAD.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "a target that is an URL": HEAD.replace(b"GET /", b"GET http://localhost/"),
    "a fragment": HEAD.replace(b"/dvl", b"/dvl#a"),
    "a fragment in the query": HEAD.replace(b"/dvl", b"/dvl?a#b"),
    "a space in the target": HEAD.replace(b"/dvl", b"/dvl?a b"),
    "a byte beyond ASCII in the target": HEAD.replace(b"/dvl", b"/dvl?\xc3\xa9"),
    "two spaces": HEAD.replace(b"GET ", b"GET  "),
    "lines that end in LF": HEAD.replace(b"\r\n", b"\n"),
    "one line that ends in LF": HEAD.replace(b"localhost\r\n", b"localhost\n"),
    "a folded line": upgrade_head(extra="X-A: 1\r\n 2\r\n"),
    "a space before the colon": upgrade_head(extra="X-A : 1\r\n"),
    "a name that is empty": upgrade_head(extra=": 1\r\n"),
    "a name with a space": upgrade_head(extra="X A: 1\r\n"),
    "a line without a colon": upgrade_head(extra="X-A\r\n"),
    "a NUL": upgrade_head(extra="X-A: \x00\r\n"),
    "a CR within a value": upgrade_head(extra="X-A: a\rb\r\n"),
    "no host": HEAD.replace(b"Host: localhost\r\n", b""),
    "two hosts": upgrade_head(extra="Host: other\r\n"),
    "no upgrade": HEAD.replace(b"Upgrade: websocket\r\n", b""),
    "two upgrades": upgrade_head(extra="Upgrade: websocket\r\n"),
    "another upgrade": HEAD.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    "no connection option": HEAD.replace(b"Connection: Upgrade\r\n", b""),
    "another connection option": HEAD.replace(b"Connection: Upgrade", b"Connection: upgrades"),
    "no version": HEAD.replace(b"Sec-WebSocket-Version: 13\r\n", b""),
    "an older version": HEAD.replace(b"Version: 13", b"Version: 8"),
    "two versions": upgrade_head(extra="Sec-WebSocket-Version: 13\r\n"),
    "no key": HEAD.replace(b"Sec-WebSocket-Key", b"X-Key"),
    "two keys": upgrade_head(extra=f"Sec-WebSocket-Key: {KEY}\r\n"),
    "a key of 15 bytes": HEAD.replace(KEY.encode(), b"AAAAAAAAAAAAAAAAAAAA"),
    "a key with stray bits": HEAD.replace(b"ZQ==", b"ZR=="),
    "a key without padding": HEAD.replace(b"ZQ==", b"ZQ"),
    "a body": upgrade_head(extra="Content-Length: 1\r\n"),
    "two lengths": upgrade_head(extra="Content-Length: 0\r\nContent-Length: 0\r\n"),
    "a length that is no number": upgrade_head(extra="Content-Length: -0\r\n"),
    "a body in chunks": upgrade_head(extra="Transfer-Encoding: chunked\r\n"),
    "an expectation": upgrade_head(extra="Expect: 100-continue\r\n"),
}


@pytest.mark.parametrize("what", ORDINARY)
def test_an_upgrade_may_have(what: str) -> None:
    assert parse_upgrade(ORDINARY[what]) is not None


@pytest.mark.parametrize("what", ODD)
def test_an_upgrade_may_not_have(what: str) -> None:
    assert ODD[what] != HEAD
    assert parse_upgrade(ODD[what]) is None


@given(st.binary(), st.integers(0, len(HEAD)), st.integers(0, len(HEAD)))
@example(b"", 0, len(HEAD))
def test_no_bytes_raise_and_what_is_read_can_be_answered(inserted: bytes, start: int, stop: int) -> None:
    request = parse_upgrade(HEAD[:start] + inserted + HEAD[max(start, stop) :])
    if request is not None:
        assert request.path.startswith("/")
        assert b"\r\n\r\n" not in accept_response(request.key, None, "id")[:-4]


@pytest.mark.parametrize(
    "hostile",
    [
        b"GET / HTTP/1.1\r\nA: " + b" " * 65_000 + b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A:\r\n" * 16_000 + b"\x00\r\n\r\n",
        b"GET /" + b"?" * 65_000 + b"\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * 65_000 + b"\r\n\r\n",
    ],
    ids=["spaces", "lines", "a target", "a name"],
)
def test_a_hostile_head_costs_no_more_than_its_length(hostile: bytes) -> None:
    began = time.process_time()
    assert parse_upgrade(hostile) is None
    assert time.process_time() - began < 0.1  # 0.4 ms here; one step back for each byte would take over 10 s


def test_a_request_does_not_print_its_credentials() -> None:
    request = parse_upgrade(upgrade_head("/dvl?token=secret", "Authorization: Bearer secret\r\n"))
    assert request is not None
    assert "secret" not in f"{request} {request!r}"
    assert "/dvl" in repr(request)


def test_subprotocols_are_offered_in_order_over_any_lines() -> None:
    extra = "Sec-WebSocket-Protocol: tocsin.v1, bearer.a.b.c\r\nSec-WebSocket-Protocol: ,tocsin,\r\n"
    request = parse_upgrade(upgrade_head(extra=extra))
    assert request is not None
    assert request.subprotocols() == ["tocsin.v1", "bearer.a.b.c", "tocsin"]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (["mine"], "mine"),
        (["x" * 128], "x" * 128),
        (["a b~!"], "a b~!"),
        ([], "new"),
        ([""], "new"),
        (["x" * 129], "new"),
        (["é"], "new"),
        (["a\tb"], "new"),
        (["one", "two"], "new"),
    ],
)
def test_a_request_id_is_taken_over_if_it_is_printable(sent: list[str], taken: str) -> None:
    assert requested_id(sent, lambda: "new") == taken


def test_the_key_is_answered_as_the_standard_has_it() -> None:
    answer = accept_response(KEY, "tocsin.v1", "r-1").decode()
    assert answer.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert answer.endswith("\r\n\r\n")
    assert "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert "\r\nSec-WebSocket-Protocol: tocsin.v1\r\n" in answer
    assert "\r\nX-Request-Id: r-1\r\n" in answer
    assert "Protocol:" not in accept_response(KEY, None, "r-1").decode()


def test_a_refusal_is_json_and_says_when_to_come_back() -> None:
    refusal = Refusal("rate_limited", "Later.", retry_after=1.2, field="chatId")
    head, _, body = render_refusal(refusal, "r-1").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    assert {
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "X-Request-Id: r-1",
        "Retry-After: 2",
        "Connection: close",
    } == set(lines[1:])
    expected = {"message": "Later.", "code": "rate_limited", "requestId": "r-1", "field": "chatId"}
    assert msgspec.json.decode(body) == expected


def test_a_refusal_without_a_token_says_how_to_send_one() -> None:
    assert refusal_headers(Refusal("unauthorized", "Who are you?")) == [("WWW-Authenticate", "Bearer")]
    assert refusal_headers(Refusal("forbidden", "No.")) == []
    assert b"field" not in render_refusal(Refusal("forbidden", "No."), "r")
    assert refusal_response(431, b"{}", "r").startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
