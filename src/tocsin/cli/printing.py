"""What commands print: for a person lines and columns, for a program JSON (--json).

Rules:
- what somebody else has written is shown with its control characters escaped: a message must not steer a terminal;
- JSON goes out as it came in: one document for one answer, a line for each of many.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_ESCAPES: Final = (
    {code: f"\\x{code:02x}" for code in itertools.chain(range(32), range(127, 160))}
    | {
        9: "\\t",
        10: "\\n",
        13: "\\r",
        0x2028: "\\u2028",
        0x2029: "\\u2029",
    }
    | {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
)
"""C0, DEL and C1; what breaks lines; what turns the direction of writing."""


class _Payload(msgspec.Struct, rename="camel"):
    event_type: str
    content: msgspec.Raw


class _Message(msgspec.Struct, rename="camel"):
    timestamp: str
    sender_id: str
    payload: _Payload
    sequence_number: int | None = None


_message: Final = msgspec.json.Decoder(_Message)


def harmless(text: str) -> str:
    return text.translate(_ESCAPES)


def print_json(value: object) -> None:
    typer.echo(msgspec.json.encode(value))


def print_message(body: bytes, *, as_json: bool) -> None:
    """`body` as history gives it, or as a frame."""
    typer.echo(body if as_json else message_line(body))


def message_line(body: bytes) -> str:
    """`number  time  sender  eventType  content`; `-` where there is no number, text without its quotes."""
    message = _message.decode(body)
    content = bytes(message.payload.content).decode()
    if content.startswith('"'):
        content = msgspec.json.decode(content, type=str)
    number = "-" if message.sequence_number is None else str(message.sequence_number)
    words = (f"{number:>6}", message.timestamp, message.sender_id, message.payload.event_type, content)
    return harmless("  ".join(words))


def print_columns(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """As wide as they need to be, also into a pipe, where there is no width to fold to."""
    lines = [heading, *([harmless(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def say(sentence: str) -> None:
    """On stderr, beside the answers."""
    typer.echo(f"tocsin: {harmless(sentence)}", err=True)
