"""The pages about AWS say what is: each difference is shown by a test that is there, each guarantee has a verdict."""

import ast
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.test_docs import quoted, table
from tocsin.engines.aws.apigateway_clients import FAN_OUT_SECONDS
from tocsin.engines.aws.apigateway_posts import POST_SECONDS
from tocsin.engines.aws.settings import ENVIRONMENT, FUNCTIONS
from tocsin.gateways.aws_sockets import FRAME_SECONDS

ROOT: Final = Path(__file__).parent.parent
DIFFERENCES: Final = (ROOT / "docs" / "aws-differences.md").read_text()
STACK: Final = (ROOT / "docs" / "aws-stack.md").read_text()
PITFALLS: Final = (ROOT / "docs" / "aws-pitfalls.md").read_text()
FAILURES: Final = (ROOT / "docs" / "aws-failures.md").read_text()
GUARANTEES: Final = (ROOT / "docs" / "guarantees-on-aws.md").read_text()
VERDICTS: Final = ("holds", "holds with a bound", "the client's part")


def rows(text: str) -> list[list[str]]:
    """The cells of every table, without their heads."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [cells for cells, under in zip(lines, [*lines[1:], [""]], strict=True) if not is_line(cells, under)]


def is_line(cells: list[str], under: list[str]) -> bool:
    return set("".join(cells)) <= {"-"} or set("".join(under)) == {"-"}


@pytest.mark.parametrize("row", [*rows(DIFFERENCES), *rows(PITFALLS), *rows(FAILURES)], ids=lambda row: row[0][:40])
def test_each_row_names_a_test_that_is_there(row: list[str]) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1])
    assert named, "nothing shows it"
    assert re.sub(r"`[\w/]+\.py::\w+`", "", row[-1]).strip() == ""
    for file, name in named:
        assert name in functions(file), f"{file} has no {name}"


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_alarm_of_a_failure_is_there() -> None:
    listed = re.findall(r"`([\w*-]+)`", "".join(row[0] for row in rows(STACK) if row[0].startswith("`")))
    for row in rows(FAILURES):
        for alarm in re.findall(r"`([\w*-]+)`", row[3]):
            assert any(fnmatch(alarm, pattern) for pattern in listed), alarm


def test_the_seconds_that_pages_name_are_the_codes() -> None:
    frame, post, fan_out = (f"{seconds:.0f}" for seconds in (FRAME_SECONDS, POST_SECONDS, FAN_OUT_SECONDS))
    assert f"its own end is at {frame} s" in PITFALLS
    assert f"after {frame} s `error unavailable`" in DIFFERENCES
    assert f"ends itself after {frame}" in STACK
    assert f"a post ends after {post} s and a chat's fan-out after {fan_out} s" in GUARANTEES
    for page in (DIFFERENCES, GUARANTEES):
        assert f"for up to {fan_out} s" in page


def test_every_variable_of_a_function_is_in_the_checklist_as_it_is_read() -> None:
    listed = [
        (quoted(name), default, says.replace("`", ""), set(quoted(functions)) or set(FUNCTIONS))
        for name, default, says, functions in table("docs/aws-deployment-checklist.md", "## What each function is told")
    ]
    shown = {None: "must be given", "": "none"}
    assert listed == [
        ([one.name], shown.get(one.default, f"`{one.default}`"), one.says, set(one.functions)) for one in ENVIRONMENT
    ]


def test_all_pitfalls_are_there() -> None:
    assert [row[0].partition(".")[0] for row in rows(PITFALLS)] == [str(number) for number in range(1, 19)]


def test_each_of_the_nine_guarantees_has_its_verdict() -> None:
    found = rows(GUARANTEES)
    assert [row[0].partition(".")[0] for row in found] == [str(number) for number in range(1, 10)]
    for row in found:
        verdicts = re.findall(r"\*\*([^*]+)\*\*", row[1])
        assert verdicts, row[0]
        assert set(verdicts) <= set(VERDICTS), row[0]
