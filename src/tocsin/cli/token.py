"""`tocsin token`: a token of the built-in issuer, signed with the key in the folder.

Rule: it reads `keys/` and nothing else, so it works whether a service runs or not; a missing key is made.
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli import values
from tocsin.cli.failure import Failure, server_packages
from tocsin.errors import Refusal


def token(
    user: Annotated[str, typer.Option(help="The userId that the token is for.", parser=values.user_id, metavar="USER")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it allows beyond the user's own permissions: publish:any, permissions:write, messages:read, "
            "connections:manage. May be repeated.",
            metavar="SCOPE",
        ),
    ] = None,
    ttl: Annotated[
        int,
        typer.Option(help="Seconds until it ends.", parser=values.whole(1, 10 * 366 * 86_400), metavar="SECONDS"),
    ] = 3600,
    data: Annotated[
        Path,
        typer.Option(help="The service's folder.", envvar="TOCSIN_DATA", show_envvar=True, metavar="DIR"),
    ] = Path("data"),
) -> None:
    """Print a token for USER, and nothing else."""
    with server_packages():
        from tocsin.engines.file_keys import FileKeys
        from tocsin.identity import KeysUnusable
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        minted = FileKeys(data / "keys").mint(user, scope or (), ttl, time.time_ns() // 1_000_000)
    except KeysUnusable as error:
        raise Failure(str(error)) from error
    except Refusal as refusal:
        raise typer.BadParameter(refusal.message, param_hint=f"--{refusal.field}") from None
    typer.echo(minted)
