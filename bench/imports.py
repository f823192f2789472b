"""`python -m bench.imports`: what each function on AWS costs before its first event, in a fresh process, side by side.

    a process with nothing | boto3 and a DynamoDB client | the nine entry points, with their settings and clients

Rules:
- whole processes, in turns, so that all share the machine's good and bad minutes; the median counts. Each ends where
  Lambda would hand it the first event: what Python does to end in order is nobody's start;
- nothing is asked of AWS: what a function asks for, it asks for with its first event;
- the budget is 0.15 s beyond boto3 with one client, in the same run.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from tocsin.engines.aws.settings import ENVIRONMENT
from tocsin.gateways.aws_routes import ENTRY_POINTS

BUDGET_SECONDS: Final = 0.15
ROUNDS: Final = 15
NOTHING: Final = "nothing"
CLIENT: Final = "boto3.client('dynamodb')"
PROGRAMS: Final[Mapping[str, str]] = {NOTHING: "pass", CLIENT: f"import boto3; {CLIENT}"} | {
    function: f"from tocsin.profiles.aws import {entry}" for function, entry in ENTRY_POINTS.items()
}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process, in seconds: by the clock, and of a processor."""

    wall: float
    processor: float


def measure(rounds: int) -> dict[str, Cost]:
    """The medians of so many rounds, after one that does not count: it writes what Python compiles."""
    taken: dict[str, list[Cost]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds + 1):
        for name, costs in taken.items():
            costs.append(_run(name))
    return {
        name: Cost(
            wall=statistics.median(cost.wall for cost in costs[1:]),
            processor=statistics.median(cost.processor for cost in costs[1:]),
        )
        for name, costs in taken.items()
    }


def environment(name: str) -> dict[str, str]:
    """A function's, whole, as Lambda gives it; none of this machine's."""
    told = {variable.name: f"https://example.com/{variable.name}" for variable in ENVIRONMENT} | {
        "RETENTION_DAYS": "30",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": "src",
    }
    return told | ({"_HANDLER": f"tocsin.profiles.aws.{ENTRY_POINTS[name]}"} if name in ENTRY_POINTS else {})


def _run(name: str) -> Cost:
    began = time.perf_counter()
    program = f"{PROGRAMS[name]}\nimport os\nos._exit(0)"
    with subprocess.Popen([sys.executable, "-c", program], env=environment(name)) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{name} ends with {process.returncode}")
    return Cost(wall=wall, processor=usage.ru_utime + usage.ru_stime)


def table(costs: Mapping[str, Cost], rounds: int) -> Table:
    client = costs[CLIENT].wall
    made = Table("process", title=f"cold start, medians of {rounds}", title_justify="left")
    for column in ("ms", "beyond boto3, ms", f"of {BUDGET_SECONDS * 1000:.0f} ms", "processor, ms"):
        made.add_column(column, justify="right")
    for name, cost in costs.items():
        beyond = cost.wall - client
        share = f"{beyond / BUDGET_SECONDS:.0%}" if name in ENTRY_POINTS else ""
        told = f"{beyond * 1000:+.0f}" if name in ENTRY_POINTS else ""
        made.add_row(name, f"{cost.wall * 1000:.0f}", told, share, f"{cost.processor * 1000:.0f}")
    return made


def main(words: Sequence[str]) -> int:
    """1: a function has spent more than its budget."""
    rounds = int(words[0]) if words else ROUNDS
    costs = measure(rounds)
    Console(width=None if sys.stdout.isatty() else 120).print(table(costs, rounds))
    return int(any(costs[name].wall > costs[CLIENT].wall + BUDGET_SECONDS for name in ENTRY_POINTS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
