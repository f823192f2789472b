"""`tocsin bench`: the load generator and scenarios of a checkout (bench/)."""

import os
import sys
from pathlib import Path

import typer

import tocsin
from tocsin.cli.failure import Failure


def bench(context: typer.Context) -> None:
    """Measure this machine, with the scenarios of a checkout; options go to bench/run.py."""
    checkout = Path(next(iter(tocsin.__path__))).parent.parent
    program = checkout / "bench" / "run.py"
    if not program.exists():
        raise Failure(
            "The benchmarks are a part of the source tree, and this is an installed package: see bench/ there."
        )
    os.execv(sys.executable, [sys.executable, str(program), *context.args])  # noqa: S606 - our own program, no shell
