"""Bytes -> a value that every parser reads alike, or a refusal. The first thing that touches what a stranger sent.

bytes -> `scan` (JSON, and only one way to read it?) -> msgspec (the right shape?) -> a record

Rule: nothing is decoded that has not been scanned. msgspec alone takes duplicate keys and any depth, and skips
      what it is not asked for; two parsers that disagree about one message are how a check is walked around.
Rule: numbers keep any size, because payloads are carried as their bytes; a scan never makes a number.
Rule: what was sent is not repeated in a refusal, except the names of fields, cut short.

RFC 8259, and I-JSON's (RFC 7493 section 2) unique keys and well-formed text. The work is done by the standard
library's C scanner and by C methods of bytes; a loop in Python over the characters would cost a message's whole budget.
"""

import json
import re
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Final, NoReturn, TypeVar

import msgspec

from tocsin.errors import Refusal

T = TypeVar("T")

MAX_DEPTH: Final = 32
#: How much of a field's name a refusal repeats, in characters.
MAX_NAME: Final = 64

_WHITESPACE: Final = " \t\n\r"
#: For `bytes.translate`: brackets become a step down or up (as signed bytes), quotes stay, all else is deleted.
_STEP: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'[{]}"'))
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])"
)


def _invalid(sentence: str) -> Refusal:
    return Refusal("invalid_json", sentence)


def _object(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _invalid(f"The key '{shown(name)}' stands more than once in one object.")
            seen.add(name)


def _constant(_name: str) -> NoReturn:
    raise _invalid("NaN and Infinity are not JSON.")


# `len` stands for "some C function of one str": numbers are checked for their form and never made.
_decoder: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=len, parse_float=len)
#: (text, position) -> (value, end); JSONDecoder's documented methods only wrap it. Typeshed leaves it out.
_scan_value: Final[Callable[[str, int], tuple[object, int]]] = _decoder.scan_once  # type: ignore[attr-defined]


def scan(data: bytes) -> None:
    """Refuse with `invalid_json` unless `data` is one JSON value (RFC 8259) that can be read in one way only.

    Refused are: keys that repeat at any depth, NaN and Infinity, more than 32 arrays and objects inside one another,
    bytes that are not UTF-8, `\\u` escapes of half a surrogate pair, a byte order mark, anything after the value,
    nothing at all. About 3 µs for 250 bytes. The caller bounds the size.
    """
    # The C scanner recurses, so depth is settled before it runs; few messages have enough brackets to ask.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _too_deep(data):
        raise _invalid(f"Arrays and objects lie more than {MAX_DEPTH} deep.")
    try:
        text = data.decode()
        start = len(text) - len(text.lstrip(_WHITESPACE))
        _, end = _scan_value(text, start)
    except UnicodeDecodeError as error:
        fault = f"This is not UTF-8 (at byte {error.start})."
    except json.JSONDecodeError as error:
        fault = f"This is not JSON: {error.msg} (at character {error.pos})."
    except StopIteration as error:
        fault = _no_value(text, error.value)
    else:
        if end != len(text.rstrip(_WHITESPACE)):
            raise _invalid(f"Something follows the JSON value (at character {end}).")
        if b"\\u" in data and _LONE_SURROGATE.search(data.replace(b"\\\\", b"  ")):
            raise _invalid("A string holds half of a surrogate pair.")
        return
    # Outside the handlers, so that the refusal does not drag along an exception that holds the body.
    raise _invalid(fault)


def _too_deep(data: bytes) -> bool:
    # Without escaped backslashes and quotes, every second piece between quotes lies outside the strings.
    structure = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_STEP, _NOT_STRUCTURE)
    steps = memoryview(b"".join(structure.split(b'"')[::2])).cast("b")
    return any(map(MAX_DEPTH.__lt__, accumulate(steps)))


def _no_value(text: str, position: int) -> str:
    if text.startswith("\ufeff"):
        return "This begins with a byte order mark, which JSON must not."
    if position >= len(text.rstrip(_WHITESPACE)):
        return "This ends where a JSON value should be." if text.strip(_WHITESPACE) else "There is no JSON here."
    return f"This is not JSON: a value should be here (at character {position})."


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Scan, then decode. Refuses with `invalid_json`, or with `invalid_argument` and the path of the field at fault."""
    scan(data)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        fault = str(error)
    raise misshapen(fault)


# What msgspec says, and what we say instead. Its texts are not a public interface: the tests pin them.
_PLACE: Final = re.compile(r"(?s)(?P<what>.*) - at `(?:key in )?\$(?P<path>[^`]*)`")
_FIELD: Final = re.compile(r"(?s)Object (?P<fault>contains unknown|missing required) field `(?P<name>.*)`")
_CHOICE: Final = re.compile(r"(?s)Invalid (?:enum )?value .*")
_PATTERN: Final = re.compile(r"(?s)Expected `\w+` matching regex .*")
_QUOTED: Final = re.compile(r"`([^`]*)`")
_NOUN: Final = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "null": "null",
    "object": "an object",
    "array": "an array",
}


def misshapen(fault: str, within: str = "") -> Refusal:
    """What msgspec says of a shape, as we say it; `within` is the path of the value that was decoded."""
    path = ""
    if place := _PLACE.fullmatch(fault):
        # Shown, because an unknown field can be named so that it looks like a place.
        fault, path = place["what"], shown(place["path"].replace("[...]", "").removeprefix("."))
    if field := _FIELD.fullmatch(fault):
        name = shown(field["name"])
        path = f"{path}.{name}" if path else name
        sentence = "This field is required." if field["fault"] == "missing required" else "This field is not known."
    elif _CHOICE.fullmatch(fault):
        sentence = "This is not one of the values that are allowed here."
    elif _PATTERN.fullmatch(fault):
        sentence = "This has the wrong length, or characters that are not allowed here."
    else:
        sentence = _QUOTED.sub(lambda match: _nouns(match[1].split(" | ")), fault) + "."
    if within:
        path = f"{within}.{path}" if path else within
    return Refusal("invalid_argument", sentence, field=path or None)


def _nouns(types: Iterable[str]) -> str:
    return " or ".join(_NOUN.get(name, name) for name in types)


def shown(name: str) -> str:
    """What a stranger named a field, fit for an answer and for a log."""
    return "".join(character if character.isprintable() else "?" for character in name[:MAX_NAME])
