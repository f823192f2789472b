"""`tocsin grant`, `revoke` and `permissions`: who may read and publish where."""

from typing import Annotated

import typer

from tocsin.cli import values
from tocsin.cli.printing import AsJson, print_columns, print_json
from tocsin.cli.target import Data, TokenFile, Url, client_of

User = Annotated[str, typer.Argument(metavar="USER", parser=values.user_id)]
Chat = Annotated[str, typer.Argument(metavar="CHAT", parser=values.chat_id)]


def grant(
    user: User,
    chat: Chat,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="owner, admin, member or reader.", parser=values.role)],
    url: Url = None,
    token_file: TokenFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Give USER a role in CHAT, or another one."""
    with client_of(url, token_file, data) as client:
        granted = client.grant(user, chat, role)
    if as_json:
        print_json(granted)
    else:
        typer.echo(f"{granted.user_id} is {granted.role} in {granted.chat_id}")


def revoke(
    user: User,
    chat: Chat,
    url: Url = None,
    token_file: TokenFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Take USER's role in CHAT away, at once."""
    with client_of(url, token_file, data) as client:
        revoked = client.revoke(user, chat)
    if as_json:
        print_json(revoked)
    else:
        typer.echo(
            f"{revoked.user_id} has no role in {revoked.chat_id}, and is sent no number above {revoked.fence_sequence}"
        )


def permissions(
    user: Annotated[
        str | None, typer.Option(help="The roles of this user.", parser=values.user_id, metavar="USER")
    ] = None,
    chat: Annotated[
        str | None, typer.Option(help="The roles in this chat.", parser=values.chat_id, metavar="CHAT")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List the roles of a user, of a chat, or of one in the other."""
    if user is None and chat is None:
        raise typer.BadParameter("one of the two is needed, or both.", param_hint="--user / --chat")
    with client_of(url, token_file, data) as client:
        found = client.permissions(user, chat)
        if as_json:
            for each in found:
                print_json(each)
        else:
            rows = [(each.user_id, each.chat_id, each.role, each.granted_by, each.granted_at) for each in found]
            print_columns(("USER", "CHAT", "ROLE", "GRANTED BY", "GRANTED AT"), rows)
