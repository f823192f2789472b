"""THE COMMAND LINE: `tocsin COMMAND …` (docs/wire.md, Command line).

    main -> a command of this folder -> RestClient (--url, or a folder's admin.sock) | FolderClient (the folder itself)
                                  -> Account (a stage on AWS)

Rules:
- exit codes: 0, 1 failed, 2 wrong use. An error is one sentence on stderr; no traceback reaches a person, except one
  who asks for it with TOCSIN_TRACEBACK=1;
- what serves is imported inside the commands: the client side runs without the packages of `tocsin[server]`;
- a pipe that closes is no error; Ctrl-C ends the process by its signal, so that it ends a shell's loop, too.
"""

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tocsin.cli.aws import aws
from tocsin.cli.aws_estimate import estimate_cost
from tocsin.cli.bench import bench
from tocsin.cli.dead_letters import dlq
from tocsin.cli.messages import history, publish
from tocsin.cli.permissions import grant, permissions, revoke
from tocsin.cli.printing import say
from tocsin.cli.restore import restore
from tocsin.cli.serve import serve
from tocsin.cli.tail import tail
from tocsin.cli.token import token

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """A WebSocket notification service in which every message has a number, and every number can be fetched."""
    if version:
        from importlib import metadata

        typer.echo(metadata.version("tocsin"))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (serve, restore, token, publish, tail, history, grant, revoke, permissions, estimate_cost):
    app.command()(command)
app.add_typer(dlq, name="dlq")
app.add_typer(aws, name="aws")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(bench)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a message may have what the terminal has not
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code."""
    try:
        invoke(arguments)
    except typer.Exit as ended:
        return ended.exit_code
    except typer.TyperException as error:
        say(error.format_message())
        return error.exit_code
    except SystemExit:  # rich's own way to leave when it finds the pipe closed
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's own flush complains
        return 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        return 130
    except OSError as error:
        if "TOCSIN_TRACEBACK" in os.environ:
            raise
        say(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror or error}.")
        return 1
    except Exception as error:
        if "TOCSIN_TRACEBACK" in os.environ:
            raise
        say(f"This should not happen: {type(error).__name__}: {error}. TOCSIN_TRACEBACK=1 shows where it did.")
        return 1
    return 0


def invoke(arguments: Sequence[str]) -> None:
    """As typer's own `main`, which would end the process in its own ways."""
    command = typer.main.get_command(app)
    with command.make_context("tocsin", list(arguments)) as context:
        command.invoke(context)
