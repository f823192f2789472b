"""`tocsin aws erase`: what a user or a chat has written is overwritten; its numbers stay.

Rules:
- nothing is changed unless a person has said so, at the terminal or with --yes; --dry-run counts;
- a run that is ended says where it stood, and goes on there with --from.
"""

import sys
from typing import Annotated

import typer

from tocsin.cli import values
from tocsin.cli.aws_account import Account, Prefix, Region
from tocsin.cli.failure import Failure
from tocsin.cli.printing import AsJson, print_json, say

User = Annotated[str | None, typer.Option(help="Whose.", parser=values.user_id, metavar="USER")]
Chat = Annotated[str | None, typer.Option(help="Of which chat.", parser=values.chat_id, metavar="CHAT")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
From = Annotated[
    str | None,
    typer.Option("--from", help="Where a run that was ended stood.", parser=values.place, metavar="PLACE"),
]


def erase(
    user: User = None,
    chat: Chat = None,
    place: From = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    prefix: Prefix = "",
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Overwrite what a user or a chat has written, and forget the user's roles, connections and tickets."""
    if (user is None) == (chat is None):
        raise typer.BadParameter("say whose, or of which chat.", param_hint="--user / --chat")
    whose = f"user {user}" if chat is None else f"chat {chat}"
    if not dry_run and not yes:
        _ask(f"Overwrite all that {whose} has written, in the stage {prefix!r}? It cannot be taken back.")
    with Account(prefix, region) as account:
        from tocsin.clock import SystemClock
        from tocsin.engines.aws.erasure import Erasure

        engine = account.engine
        erasure = Erasure(
            engine.dynamodb, account.settings, engine.bus, SystemClock(), rehearse=dry_run, place=place or ""
        )
        try:
            if user is not None:
                account.run(erasure.user(user))
            if chat is not None:
                account.run(erasure.chat(chat))
        except BaseException:
            if erasure.tally.place and not dry_run:
                say(f"it is done up to here; go on with --from {erasure.tally.place}")
            raise
    tally = erasure.tally
    if as_json:
        print_json({"counts": tally.counts, "kept": tally.kept})
    else:
        for kind, count in tally.counts.items():
            typer.echo(f"{kind:13} {count}")
    if tally.kept:
        raise Failure(
            f"{user} is the last owner of {', '.join(tally.kept)}: make somebody else owner, and erase again."
        )


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "nobody can be asked here: say it with --yes, or look with --dry-run.", param_hint="--yes"
        )
    if not typer.confirm(question):
        raise Failure("Nothing was changed.")
