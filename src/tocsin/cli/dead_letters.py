"""`tocsin dlq list | show | replay | purge`: the messages that failed three times.

On the service's own machine by its folder (--data), on AWS by the caller's own credentials (--aws).

Rule: what changes anything is told which letters, or --all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tocsin.cli import values
from tocsin.cli.aws_account import AwsDeadLetters, Prefix, Region
from tocsin.cli.client import DeadLetters, Letter
from tocsin.cli.failure import Failure
from tocsin.cli.printing import AsJson, harmless, print_columns, print_json
from tocsin.cli.target import Data, administration_of

dlq = typer.Typer()

LetterId = Annotated[str, typer.Argument(metavar="ID", parser=values.letter_id)]
LetterIds = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", parser=values.letter_id)]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Aws = Annotated[bool, typer.Option("--aws", help="On AWS, with your own credentials.", rich_help_panel="Which service")]


@dlq.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """List, show, replay or purge dead letters."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@dlq.command("list")
def list_letters(
    queue: Annotated[str | None, typer.Option(help="Only of this queue.", parser=values.queue, metavar="QUEUE")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", parser=values.whole(1, 1_000), metavar="NUMBER")] = 100,
    data: Data = None,
    aws: Aws = False,
    prefix: Prefix = "",
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters."""
    with _letters_of(data, prefix, region, aws=aws) as client:
        letters = client.dead_letters(queue, limit)
    if as_json:
        for letter in letters:
            print_json(letter)
    else:
        print_columns(("ID", "QUEUE", "CHAT", "NUMBER", "TRIES", "LAST FAILED AT", "REASON"), map(_row, letters))


@dlq.command()
def show(
    letter: LetterId,
    data: Data = None,
    aws: Aws = False,
    prefix: Prefix = "",
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter, with its message."""
    with _letters_of(data, prefix, region, aws=aws) as client:
        found = client.dead_letter(letter)
    if as_json:
        print_json(found)
        return
    for field in msgspec.structs.fields(Letter):
        value = getattr(found, field.name)
        text = bytes(value).decode() if isinstance(value, msgspec.Raw) else "-" if value is None else str(value)
        typer.echo(f"{field.encode_name + ':':16} {harmless(text)}")


@dlq.command()
def replay(
    letters: LetterIds = None,
    every: All = False,
    data: Data = None,
    aws: Aws = False,
    prefix: Prefix = "",
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back into their queues, with the numbers they have."""
    named = _named(letters, every=every)
    with _letters_of(data, prefix, region, aws=aws) as client:
        count = client.replay(named)
    _tell("replayed", count, named, as_json=as_json)


@dlq.command()
def purge(
    letters: LetterIds = None,
    every: All = False,
    data: Data = None,
    aws: Aws = False,
    prefix: Prefix = "",
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters. Their messages stay in history, except MessageStorageQueue's, which are nowhere else."""
    named = _named(letters, every=every)
    with _letters_of(data, prefix, region, aws=aws) as client:
        count = client.purge(named)
    _tell("purged", count, named, as_json=as_json)


@contextmanager
def _letters_of(data: Path | None, prefix: str, region: str | None, *, aws: bool) -> Iterator[DeadLetters]:
    if aws and data is not None:
        raise typer.BadParameter("it cannot be given together with --data.", param_hint="--aws")
    if not aws and (prefix or region):
        raise typer.BadParameter("it belongs to --aws.", param_hint="--prefix / --region")
    if aws:
        with AwsDeadLetters(prefix, region) as letters:
            yield letters
    else:
        with administration_of(data) as client:
            yield client


def _named(letters: Sequence[str] | None, *, every: bool) -> Sequence[str] | None:
    """None: all of them."""
    if bool(letters) == every:
        raise typer.BadParameter("say which letters by their ids, or --all.", param_hint="ID / --all")
    return None if every else list(dict.fromkeys(letters or ()))


def _tell(done: str, count: int, named: Sequence[str] | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"count": count})
    else:
        typer.echo(f"{done} {count}")
    if named is not None and count < len(named):
        raise Failure(f"{len(named) - count} of the {len(named)} letters were not there.")


def _row(letter: Letter) -> tuple[str, ...]:
    number = "-" if letter.sequence_number is None else str(letter.sequence_number)
    return (
        letter.letter_id,
        letter.queue,
        letter.chat_id,
        number,
        str(letter.attempts),
        letter.last_failed_at,
        letter.reason,
    )
