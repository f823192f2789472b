"""`tocsin aws erase | restore | resume`: what an operator does to a stage on AWS, with his own credentials."""

import typer

from tocsin.cli.aws_erase import erase
from tocsin.cli.aws_restore import restore, resume

aws = typer.Typer()


@aws.callback(invoke_without_command=True)
def start(context: typer.Context) -> None:
    """Erase or restore, in a stage on AWS."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (erase, restore, resume):
    aws.command()(command)
