"""A function's cold start: what it loads, what it costs beside boto3, and what it says where something is missing."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from bench.imports import BUDGET_SECONDS, CLIENT, environment, measure
from tocsin.engines.aws.settings import FUNCTIONS, Function
from tocsin.gateways.aws_routes import ENTRY_POINTS

ROOT: Final = Path(__file__).parent.parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: What a package of the base, for people at terminals, costs a function nothing.
FOR_PEOPLE: Final = {"rich", "typer", "websockets"}


def start(
    function: Function, before: str = "", after: str = "", without: str | None = None
) -> subprocess.CompletedProcess[str]:
    """A process of Lambda's that has loaded the function's entry point."""
    given = {name: value for name, value in environment(function).items() if name != without}
    program = f"{before}\nfrom tocsin.profiles.aws import {ENTRY_POINTS[function]}\n{after}"
    return subprocess.run(
        [sys.executable, "-c", program], env=given, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_starts_with_the_packages_of_aws_alone_and_does_no_io(function: Function) -> None:
    packages = {
        extra: {Requirement(each).name for each in PROJECT["optional-dependencies"][extra]}
        for extra in ("server", "aws")
    }
    hidden = {name.replace("-", "_") for name in (packages["server"] - packages["aws"] - {"msgspec"}) | FOR_PEOPLE}
    done = start(
        function,
        f"""
import sys
sys.modules |= dict.fromkeys({sorted(hidden)})

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise SystemExit(f"{{event}} {{arguments[-1]!r}} while starting")

sys.addaudithook(forbid)
""",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("function", "variable"),
    [
        ("connection-handler", "WS_API_ENDPOINT"),
        ("p2pWebSocketPublisher", "FIFO_TOPIC_ARN"),
        ("message-retrieval", "CURSOR_SECRET_ARN"),
    ],
)
def test_what_is_missing_in_the_environment_ends_the_start_with_its_name(function: Function, variable: str) -> None:
    done = start(function, without=variable)
    assert done.returncode == 1
    assert f"{function} lacks {variable} in its environment." in done.stderr.splitlines()[-1]


def test_only_the_function_that_lambda_names_is_built() -> None:
    """A module with nine entry points needs only the environment of one."""
    done = start("metric-collector", after="import tocsin.profiles.aws as all; print(all.processor._process)")
    assert done.stdout == "None\n", done.stderr


@pytest.mark.slow
def test_a_function_starts_in_boto3s_time_and_a_bit() -> None:
    """In time of the processor, which a busy machine does not make longer; a slow one makes both longer."""
    costs = measure(3)
    client = costs[CLIENT].processor
    budget = max(BUDGET_SECONDS, 0.6 * client)
    over = {name: costs[name].processor - client for name in ENTRY_POINTS}
    assert max(over.values()) <= budget, over
