"""What the pages say is so: their commands are run, their tables are the code's.

In a page an HTML comment before a fenced block says what it is:

    <!-- run -->      bash, python or js: run as it stands; a page is one session, so a variable that one block exports
                      is there in the next
    <!-- output -->   what the block before it prints. `…` stands for anything. Of ids, times and the like only the form
                      counts (`VOLATILE`), of JSON only the value

Nothing is changed in a block. Where the service is, a page takes from the variable URL, as a reader could, and the
command line from TOCSIN_DATA.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import typer

from tests.guarantees.server import Service, environment
from tocsin import errors, failpoints
from tocsin.cli import app
from tocsin.engine import EVERY_STRENGTH
from tocsin.engines.embedded.prometheus_metrics import COUNTERS, GAUGES, HISTOGRAMS
from tocsin.gateways.actions import NAMES as ACTIONS
from tocsin.gateways.routes import ROUTES
from tocsin.identity import SCOPES
from tocsin.metrics import CLIENT_METRICS

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
#: Its session is run by tests/deploy/test_local.py.
ON_AWS: Final = ROOT / "docs" / "aws-quick-start.md"
SECONDS: Final = 90

#: language -> the command that reads a program from stdin.
PROGRAMS: Final = {
    "python": f"{sys.executable} -",
    "js": "node --experimental-websocket --no-warnings --input-type=module -",
}
#: Of what differs from run to run only the form is compared.
VOLATILE: Final = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME"),
    (r"(epoch|connectionId|ticket|nextStartKey)(\W+?)[\w-]{8,}", r"\1\2OPAQUE"),  # which may begin with "-"
)

_BLOCK: Final = re.compile(r"^<!-- (run|output) -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    kind: str
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(kind=found[1], language=found[2], text=found[3], line=text.count("\n", 0, found.start()) + 3)
        for found in _BLOCK.finditer(text)
    ]


def session_of(blocks: list[Block]) -> Iterator[str]:
    """One bash program that runs them all, and says on stdout where each begins."""
    yield "set -euo pipefail\n"
    for index, block in enumerate(blocks):
        if block.kind == "run":
            yield f"printf '\\n=== {index}\\n'; printf 'line {block.line}\\n' >&2\n"
            if block.language == "bash":
                yield block.text
            else:
                yield f"{PROGRAMS[block.language]} <<'END OF BLOCK'\n{block.text}END OF BLOCK\n"


def masked(text: str) -> str:
    for pattern, form in VOLATILE:
        text = re.sub(pattern, form, text)
    return text


def is_output(expected: str, printed: str, language: str) -> bool:
    if language == "json":
        return bool(json.loads(masked(expected)) == json.loads(masked(printed)))
    lines = [re.escape(line).replace("…", ".*") for line in masked(expected).splitlines()]
    return re.fullmatch("\n".join(lines), masked(printed).strip("\n")) is not None


def run(page: Path, variables: dict[str, str], folder: Path) -> str:
    """What is wrong with the page; empty: nothing."""
    blocks = blocks_of(page)
    done = subprocess.run(
        ["bash", "-c", "".join(session_of(blocks))],
        env=environment(**variables),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        return f"ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    parts = re.split(r"^=== (\d+)\n", done.stdout, flags=re.MULTILINE)[1:]
    printed = dict(zip(map(int, parts[::2]), parts[1::2], strict=True))
    wrong = [
        f"line {block.line}: this is printed:\n{printed[index - 1]}"
        for index, block in enumerate(blocks)
        if block.kind == "output" and not is_output(block.text, printed[index - 1], block.language)
    ]
    return "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks_of(page) and page != ON_AWS],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
async def test_the_commands_of_a_page_do_what_it_says(
    page: Path, tmp_path: Path, program: Callable[[str], Path]
) -> None:
    program("curl")
    program("node")
    async with Service(tmp_path / "data", {}) as service:
        await service.start()
        variables = {
            "URL": service.http_url,
            "OPS": f"http://127.0.0.1:{service.ops_port}",
            "TOCSIN_DATA": str(service.data),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        wrong = run(page, variables, tmp_path)
        assert not wrong, f"{page.relative_to(ROOT)}: {wrong}\n--- the service:\n{service.output[-2000:]}"


def test_an_output_counts_by_its_form_where_it_differs_from_run_to_run() -> None:
    assert is_output('{"timestamp":\n"2026-01-01T00:00:00.000Z"}', '{"timestamp":"2027-02-02T11:11:11.111Z"}', "json")
    assert not is_output('{"timestamp": "2026-01-01T00:00:00.000Z"}', '{"timestamp": "yesterday"}', "json")
    assert is_output('{"epoch": "q7Xb2LdYk0Zs"}', '{"epoch":"-QaK9m9ScjY3"}', "json")
    assert not is_output('{"headSequence": 1}', '{"headSequence": 2}', "json")
    assert is_output("1  …  alice  Hello.", "1  2026-01-01T00:00:00.000Z  alice  Hello.\n", "text")
    assert not is_output("Hello.", "Hello!", "text")


def test_what_a_page_runs_fails_the_page_when_it_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- run -->\n```bash\nexport A=1\n```\n\n<!-- run -->\n```python\nimport os; print(os.environ['A'])\n```\n"
    )
    assert run(page, {}, tmp_path) == ""
    page.write_text(page.read_text() + "\n<!-- output -->\n```text\n2\n```\n")
    assert "line 13" in run(page, {}, tmp_path)
    page.write_text("<!-- run -->\n```bash\nfalse\n```\n")
    assert "ended with 1" in run(page, {}, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_comment_that_marks_a_block_is_followed_by_one(page: Path) -> None:
    marks = re.findall(r"^<!-- \w+ -->$", page.read_text(), re.MULTILINE)
    blocks = blocks_of(page)
    assert len(blocks) == len(marks)
    assert all(block.language in ("bash", *PROGRAMS) for block in blocks if block.kind == "run")
    assert all(
        before.kind == "run"
        for before, block in zip([None, *blocks], blocks, strict=False)
        if before and block.kind == "output"
    )


# -- tables that are the code's ----------------------------------------------------------------------------------------


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (ROOT / page).read_text()
    _, _, section = text.partition(f"\n{heading}\n")
    assert section, f"{page} has no heading {heading!r}"
    rows = []
    for line in section.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            break
    return rows[2:]


def quoted(text: str) -> list[str]:
    """What stands `between backticks`."""
    return re.findall(r"`([^`]+)`", text)


def named(rows: list[list[str]], column: int = 0) -> set[str]:
    return {name for row in rows for name in quoted(row[column])}


def test_every_error_is_listed_with_its_status() -> None:
    rows = table("docs/wire.md", "### Errors")
    assert {code: int(row[0][:3]) for row in rows for code in quoted(row[1])} == dict(errors.STATUS)


def test_every_close_code_is_listed() -> None:
    codes = {value for name, value in vars(errors.CloseCode).items() if name.isupper()}
    assert {int(code) for row in table("docs/wire.md", "### Close codes") for code in row[0].split()} == codes


def test_every_route_is_listed() -> None:
    listed = {
        (method, re.split(r"[?&]", path)[0])
        for row in table("docs/wire.md", "## REST")
        for cell in [row[0].replace("` `", " ").replace("{id}", "{connectionId}")]
        for methods, path in re.findall(r"((?:[A-Z]{3,6} )+)`?\s?`?(/[\w@/{}.?&-]+)", cell.replace("` `", " "))
        for method in methods.split()
    }
    assert listed == {(route.method, route.path) for route in ROUTES if route.path}


def test_every_action_is_listed() -> None:
    rows = table("docs/wire.md", "## WebSocket")
    assert {quoted(part)[0].split()[0] for row in rows for part in row[0].split("·") if part} == set(ACTIONS)


def test_every_command_is_listed() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # of a typer Group
    rows = table("docs/wire.md", "## Command line")
    assert {name.split()[1] for name in named(rows) if name.startswith("tocsin ")} == commands


def test_every_scope_is_listed() -> None:
    assert named(table("docs/authorization.md", "## Scopes")) == SCOPES


def test_every_strength_is_listed() -> None:
    assert named(table("docs/contracts.md", "## Strengths")) == EVERY_STRENGTH


def test_every_failpoint_is_explained() -> None:
    assert named(table("ARCHITECTURE.md", "## The journey of one message")) == failpoints.NAMES


def test_every_metric_is_listed() -> None:
    counted = {f"tocsin_{name}_total" for name in COUNTERS} | {"tocsin_client_total", "tocsin_client_reports_total"}
    others = {f"tocsin_{name}" for name in (*HISTOGRAMS, *GAUGES)}
    assert named(table("docs/operations.md", "## Metrics")) == counted | others


def test_every_metric_that_a_client_may_report_is_listed_with_its_unit() -> None:
    rows = table("docs/message-formats.md", "## Client metrics")
    assert {quoted(row[0])[0]: row[1] for row in rows} == CLIENT_METRICS


def test_every_setting_is_listed_with_its_variable() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]  # of a typer Group
    settings = {option.opts[0]: option.envvar for option in command.params if not getattr(option, "hidden", False)}
    assert {
        name: variable for row in table("docs/operations.md", "## Settings") for name, variable in [quoted(row[0])[:2]]
    } == settings


def test_every_file_of_the_aws_engine_has_its_box() -> None:
    listed = {Path(path) for row in table("ARCHITECTURE.md", "## The picture") for path in quoted(row[2])}
    source = ROOT / "src/tocsin"
    assert not [path for path in listed if not (source / path).exists()]
    engine = {path.relative_to(source) for path in (source / "engines/aws").glob("*.py") if path.name != "__init__.py"}
    assert engine <= listed


def test_every_file_in_the_picture_is_there_and_every_box_of_the_seed_too() -> None:
    picture = (ROOT / "ARCHITECTURE.md").read_text().split("```mermaid\n")[1].split("```")[0]
    paths = re.findall(r"[\w/]+\.(?:py|js|sql)", picture)
    assert not [path for path in paths if not (ROOT / "src/tocsin" / path).exists() and not (ROOT / path).exists()]
    boxes = re.compile(r"^\s+(\w+)\[\(?\"([^\"]*)\"", re.MULTILINE)
    here = dict(boxes.findall(picture))
    assert set(dict(boxes.findall((ROOT / "docs/seed.md").read_text()))) <= set(here)
    assert not [box for box, text in here.items() if "/" not in text and ".py" not in text]
