"""`tocsin publish` and `tocsin history`."""

import json
import sys
from itertools import islice
from typing import Annotated, Final

import msgspec
import typer

from tocsin.cli import values
from tocsin.cli.client import LARGEST_PAGE, Wanted
from tocsin.cli.failure import Failure, Refused, Unreachable
from tocsin.cli.printing import AsJson, print_json, print_message
from tocsin.cli.target import Data, TokenFile, Url, client_of, running
from tocsin.message import MAX_MESSAGE_BYTES

Chat = Annotated[str, typer.Argument(metavar="CHAT", parser=values.chat_id)]

_MOST: Final = 1_000_000


def publish(
    chat: Chat,
    content: Annotated[
        str, typer.Argument(metavar="CONTENT", help="A text, or a JSON object or array; - reads it from stdin.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--type",
            help="fifo: ordered and numbered; standard: neither.",
            parser=values.message_type,
            metavar="standard|fifo",
        ),
    ] = "standard",
    event_type: Annotated[
        str,
        typer.Option(help="What the message is to the application.", parser=values.event_type, metavar="NAME"),
    ] = "message",
    channel: Annotated[
        str, typer.Option(help="Where it is to be delivered.", parser=values.chat_id, metavar="CHANNEL")
    ] = "WebSocket",
    identifier: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="Published again with the same id, it is one message.",
            parser=values.printable_id,
            metavar="ID",
        ),
    ] = None,
    as_text: Annotated[bool, typer.Option("--text", help="CONTENT is a text, whatever it looks like.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Publish a message; prints its id once it is on disk."""
    given = _given(content)
    publication: dict[str, object] = {
        "targetChannel": channel,
        "messageType": kind,
        "payload": {"chatId": chat, "eventType": event_type, "content": given if as_text else _content(given)},
    }
    if identifier is not None:
        publication["messageDeduplicationId"] = identifier
    try:
        receipt = running(url, token_file, data).publish(publication)
    except Unreachable as error:
        raise Failure(f"{error.message} {_unknown(identifier)}") from error
    except Refused as refusal:
        if not refusal.is_unknown:
            raise
        raise Failure(f"{refusal.message}: {_unknown(identifier)}") from refusal
    if as_json:
        print_json(receipt)
    else:
        typer.echo(f"{receipt.message_id}  {receipt.timestamp}{'  (a repeated publish)' if receipt.duplicate else ''}")


def history(
    chat: Chat,
    limit: Annotated[int, typer.Option(help="At most so many.", parser=values.whole(1, _MOST), metavar="NUMBER")] = 50,
    first: Annotated[
        int | None,
        typer.Option("--from", help="From this number on.", parser=values.number, metavar="NUMBER"),
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", help="Up to this number.", parser=values.number, metavar="NUMBER")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="From this time on (RFC 3339).", parser=values.moment, metavar="TIME")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Up to this time (RFC 3339).", parser=values.moment, metavar="TIME")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Print the newest messages of CHAT, oldest of them first; with --from or --to those numbers, from the first on."""
    by_number = (first, last) != (None, None)
    if by_number and (since, until) != (None, None):
        raise typer.BadParameter("they cannot be given together with --since or --until.", param_hint="--from / --to")
    if (first is not None and last is not None and first > last) or (since and until and since > until):
        raise typer.BadParameter("the range ends before it begins.", param_hint="--to / --until")
    wanted = Wanted(
        chat_id=chat,
        first=first,
        last=last,
        since=since,
        until=until,
        newest_first=not by_number,
        page=min(limit, LARGEST_PAGE),
    )
    with client_of(url, token_file, data) as client:
        found = islice(client.history(wanted), limit)
        for body in found if by_number else reversed(list(found)):
            print_message(body, as_json=as_json)


def _given(content: str) -> str:
    """The argument, or what stands on stdin, without the line's end."""
    try:
        if content == "-":
            given = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1)
            if len(given) > MAX_MESSAGE_BYTES:
                raise typer.BadParameter(f"it has more than {MAX_MESSAGE_BYTES} bytes.", param_hint="CONTENT")
            return given.decode().removesuffix("\n")
        content.encode()
    except UnicodeError:
        raise typer.BadParameter("it is not UTF-8.", param_hint="CONTENT") from None
    return content


def _content(text: str) -> object:
    """A JSON object or array as it is written; anything else is a text."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return text
        return msgspec.Raw(text.strip().encode())
    return text


def _unknown(identifier: str | None) -> str:
    if identifier is None:
        return "Whether it was published is unknown; had it an --id, it could safely be published again."
    return f"Whether it was published is unknown; publish it again with --id {identifier}, and it is one message."
