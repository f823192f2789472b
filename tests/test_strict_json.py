"""The strict scan against a slow reference written from RFC 8259, and the sentences of what does not decode."""

import json
import re
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tocsin import strict_json
from tocsin.errors import Refusal
from tocsin.strict_json import MAX_NAME, decode, scan

# -- the reference: RFC 8259 section by section, one character after another -------------------------------------------


class NotStrict(Exception):
    pass


class Reference:
    """Reads one JSON value; `NotStrict` at whatever the scan must refuse."""

    def __init__(self, data: bytes) -> None:
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise NotStrict from None
        self.at = 0

    def read(self) -> None:
        self.space()
        self.value(0)
        self.space()
        if self.at != len(self.text):
            raise NotStrict

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> None:
        if not self.text.startswith(expected, self.at):
            raise NotStrict
        self.at += len(expected)

    def space(self) -> None:
        while self.peek() and self.peek() in "\t\n\r ":
            self.at += 1

    def value(self, depth: int) -> None:
        match self.peek():
            case "{":
                self.object(depth + 1)
            case "[":
                self.array(depth + 1)
            case '"':
                self.string()
            case "t":
                self.take("true")
            case "f":
                self.take("false")
            case "n":
                self.take("null")
            case _:
                self.number()

    def object(self, depth: int) -> None:
        if depth > 32:
            raise NotStrict
        self.take("{")
        self.space()
        keys: list[str] = []
        while self.peek() != "}":
            if keys:
                self.take(",")
                self.space()
            keys.append(self.string())
            self.space()
            self.take(":")
            self.space()
            self.value(depth)
            self.space()
        self.take("}")
        if len(set(keys)) < len(keys):
            raise NotStrict

    def array(self, depth: int) -> None:
        if depth > 32:
            raise NotStrict
        self.take("[")
        self.space()
        first = True
        while self.peek() != "]":
            if not first:
                self.take(",")
                self.space()
            first = False
            self.value(depth)
            self.space()
        self.take("]")

    def string(self) -> str:
        self.take('"')
        units: list[int] = []  # UTF-16, in which the escapes are meant
        while self.peek() != '"':
            character = self.peek()
            if not character or character < " ":
                raise NotStrict
            self.at += 1
            if character != "\\":
                encoded = character.encode("utf-16-be")
                units += [int.from_bytes(encoded[i : i + 2]) for i in range(0, len(encoded), 2)]
            elif self.peek() == "u":
                digits = self.text[self.at + 1 : self.at + 5]
                if len(digits) != 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                    raise NotStrict
                units.append(int(digits, 16))
                self.at += 5
            elif self.peek() and self.peek() in '"\\/bfnrt':
                units.append(ord({"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}.get(self.peek(), self.peek())))
                self.at += 1
            else:
                raise NotStrict
        self.take('"')
        try:
            return b"".join(unit.to_bytes(2) for unit in units).decode("utf-16-be")
        except UnicodeDecodeError:
            raise NotStrict from None

    def number(self) -> None:
        if self.peek() == "-":
            self.at += 1
        if self.peek() == "0":
            self.at += 1
        else:
            self.digits()
        if self.peek() == ".":
            self.at += 1
            self.digits()
        if self.peek() and self.peek() in "eE":
            self.at += 1
            if self.peek() and self.peek() in "+-":
                self.at += 1
            self.digits()

    def digits(self) -> None:
        start = self.at
        while self.peek() and self.peek() in "0123456789":
            self.at += 1
        if start == self.at:
            raise NotStrict


def is_strict(data: bytes) -> bool:
    try:
        Reference(data).read()
    except NotStrict:
        return False
    return True


def passes(data: bytes) -> bool:
    try:
        scan(data)
    except Refusal as refusal:
        if refusal.code != "invalid_json":
            raise
        return False
    return True


# -- what hypothesis writes: JSON with every fault that a stranger could think of --------------------------------------

spaces = st.sampled_from(["", "", "", " ", "\n\t", "\r\n", "\u00a0", "\x0b"])
pieces = st.sampled_from(
    [
        *["a", "é", "\U0001f600", "\\n", "\\\\", '\\"', "\\/", "\\u0061", "\\u00e9", "\\uD83D\\uDE00"],
        *["\\ud83d", "\\udE00", "\\x", "\\u12", "\x01", "[", "{", "]", "}", "\x7f", "\\", "\ufeff"],
    ]
)
strings = st.lists(pieces, max_size=5).map(lambda parts: '"' + "".join(parts) + '"')
keys = st.one_of(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"c"', '"d"']), strings)
numbers = st.sampled_from(
    [
        *["0", "-0", "1", "-12", "1.5", "1e9", "1E+400", "-0.0e-0", "9" * 5000, "1" + "0" * 400 + ".5"],
        *["01", "+1", "1.", ".5", "1e", "-", "0x1", "1_0", "NaN", "Infinity", "-Infinity", "٣"],
    ]
)
scalars = st.one_of(strings, numbers, st.sampled_from(["true", "false", "null", "True", "nul", ""]))


def containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(spaces, keys, spaces, values).map(lambda parts: f"{parts[0]}{parts[1]}{parts[2]}:{parts[3]}")
    return st.one_of(
        st.lists(st.one_of(values, member), max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.lists(member, max_size=4).map(lambda items: f"{{{','.join(items)}}}"),
        st.tuples(spaces, values, spaces).map("".join),
    )


texts = st.recursive(scalars, containers, max_leaves=12)
wrapped = st.tuples(st.integers(28, 36), st.booleans(), texts).map(
    lambda parts: ("[" if parts[1] else '{"[":') * parts[0] + parts[2] + ("]" if parts[1] else "}") * parts[0]
)
noise = st.text(alphabet='[]{}",:\\ud8De0123-+.E tfnNaI\n', max_size=60)


@given(st.one_of(texts, wrapped, noise).map(lambda text: text.encode()))
@example(b"")
@example(b"\xef\xbb\xbf{}")
def test_the_scan_agrees_with_the_reference(data: bytes) -> None:
    assert passes(data) == is_strict(data)


@given(texts.map(lambda text: text.encode()), st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3))
def test_it_agrees_about_damaged_bytes(data: bytes, at: int, put_in: bytes, cut_out: int) -> None:
    damaged = data[:at] + put_in + data[at + cut_out :]
    assert passes(damaged) == is_strict(damaged)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=25,
    ),
    st.booleans(),
)
def test_what_the_standard_library_writes_passes(value: object, ascii_only: bool) -> None:
    scan(json.dumps(value, ensure_ascii=ascii_only).encode())


# -- one by one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "There is no JSON here."),
        (b" \n", "There is no JSON here."),
        (b'{"a":', "This ends where a JSON value should be."),
        (b"[1,]", "This is not JSON: a value should be here (at character 3)."),
        (b'{"a"}', "This is not JSON: Expecting ':' delimiter (at character 4)."),
        (b"{} {}", "Something follows the JSON value (at character 2)."),
        (b"\xef\xbb\xbf{}", "This begins with a byte order mark, which JSON must not."),
        (b'"\xff"', "This is not UTF-8 (at byte 1)."),
        (b'"\xed\xa0\x80"', "This is not UTF-8 (at byte 1)."),
        (b'"\xc0\x80"', "This is not UTF-8 (at byte 1)."),
        (b"[NaN]", "NaN and Infinity are not JSON."),
        (b"[-Infinity]", "NaN and Infinity are not JSON."),
        (b'{"a":1,"b":{"c":1,"\\u0063":2}}', "The key 'c' stands more than once in one object."),
        (b'"\\ud800"', "A string holds half of a surrogate pair."),
        (b'"\\uDE00\\uD83D"', "A string holds half of a surrogate pair."),
        (b'"\\ud83d\\\\\\ude00"', "A string holds half of a surrogate pair."),
        (b'{"\\ud83d":1}', "A string holds half of a surrogate pair."),
        (b"[" * 33 + b"]" * 33, "Arrays and objects lie more than 32 deep."),
        (b"[" * 1_000_000, "Arrays and objects lie more than 32 deep."),
        (b'{"a":' * 1_000_000, "Arrays and objects lie more than 32 deep."),
    ],
    ids=lambda value: f"{value[:20]!r}..{len(value)}",
)
def test_each_fault_has_its_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(Refusal) as refused:
        scan(data)
    assert (refused.value.code, refused.value.message) == ("invalid_json", sentence)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 32 + b"]" * 32,
        b"[" + b",".join([b'{"a":[]}'] * 1000) + b"]",
        b'["' + b"[{" * 1000 + b'"]',
        b'["\\\\","\\"' + b"[" * 40 + b'"]',
        b'"\\ud83d\\ude00\\uD83D\\uDE00"',
        b'"\\\\ud800"',
        b"9" * 100_000,
        b"-1e" + b"9" * 10_000,
        b" \t\r\n{}\n",
    ],
    ids=lambda data: f"{data[:20]!r}..{len(data)}",
)
def test_what_is_merely_unusual_passes(data: bytes) -> None:
    scan(data)


def test_a_key_is_shown_short_and_without_what_could_forge_a_line_of_a_log() -> None:
    key = json.dumps("x\n\x1b" + "y" * 1000)
    with pytest.raises(Refusal) as refused:
        scan(f"{{{key}:1,{key}:2}}".encode())
    assert refused.value.message == f"The key 'x??{'y' * (MAX_NAME - 3)}' stands more than once in one object."


def test_a_refusal_drags_no_body_along() -> None:
    with pytest.raises(Refusal) as refused:
        scan(b'{"secret": tru}')
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


# -- decoding ----------------------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    payload: msgspec.Raw
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    kind: Literal["fifo", "standard"] = "standard"
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=3, pattern="^[a-z]*$")] = "a"


class Body(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    messages: Annotated[list[Entry], msgspec.Meta(max_length=2)] = []
    chats: dict[str, int | None] = {}
    request_id: str = ""


body_decoder = msgspec.json.Decoder(Body)


@pytest.mark.parametrize(
    ("data", "field", "sentence"),
    [
        ("[]", None, "Expected an object, got an array."),
        ('{"x":1}', "x", "This field is not known."),
        ('{"messages":[{}]}', "messages[0].payload", "This field is required."),
        ('{"messages":[{"payload":1},{"payload":1,"zz":1}]}', "messages[1].zz", "This field is not known."),
        ('{"messages":[{"payload":1,"count":"1"}]}', "messages[0].count", "Expected an integer, got a string."),
        ('{"messages":[{"payload":1,"count":0}]}', "messages[0].count", "Expected an integer >= 1."),
        ('{"messages":[{"payload":1,"count":1e999}]}', "messages[0].count", "Number out of range."),
        ('{"messages":[{"payload":1,"name":"long"}]}', "messages[0].name", "Expected a string of length <= 3."),
        (
            '{"messages":[{"payload":1,"name":"A"}]}',
            "messages[0].name",
            "This has the wrong length, or characters that are not allowed here.",
        ),
        (
            '{"messages":[{"payload":1,"kind":"secret"}]}',
            "messages[0].kind",
            "This is not one of the values that are allowed here.",
        ),
        ('{"chats":{"secret":"secret"}}', "chats", "Expected an integer or null, got a string."),
        ('{"requestId":null}', "requestId", "Expected a string, got null."),
    ],
)
def test_what_does_not_fit_is_told_by_its_path_and_never_by_its_value(
    data: str, field: str | None, sentence: str
) -> None:
    with pytest.raises(Refusal) as refused:
        decode(data.encode(), body_decoder)
    assert refused.value.code == "invalid_argument"
    assert refused.value.field == field
    assert refused.value.message == sentence
    assert "secret" not in refused.value.message
    assert refused.value.__context__ is None


@given(st.text())
@example("` - at `$." + "y\n" * 1000)
def test_an_unknown_field_is_named_in_few_printable_characters(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode(json.dumps({"_" + name: 1}).encode(), body_decoder)
    field = refused.value.field or ""
    assert len(field) <= 2 * MAX_NAME + 1
    assert field.isprintable()


def test_what_fits_is_decoded_with_its_payload_as_it_was_written() -> None:
    body = decode(b'{"messages":[{"payload":{"n":1.0e00, "big":12345678901234567890123}}]}', body_decoder)
    assert bytes(body.messages[0].payload) == b'{"n":1.0e00, "big":12345678901234567890123}'


def test_bytes_that_are_not_strict_are_never_decoded() -> None:
    with pytest.raises(Refusal) as refused:
        decode(b'{"requestId":"a","requestId":"b"}', body_decoder)
    assert refused.value.code == "invalid_json"


def test_the_scan_runs_on_the_c_scanner() -> None:
    assert re.search(r"^<class '_json\.Scanner'>$", str(type(strict_json._scan_value)))
