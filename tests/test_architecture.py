"""The house rules, checked: what may import what, what things are called, how long a file may be.

Which imports are allowed stands in pyproject.toml and is checked by `lint-imports`. Here a copy of the house is broken,
one wall at a time, to prove that the contracts would notice.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "src" / "tocsin"
FILES = sorted(path for path in HOUSE.rglob("*") if path.suffix in {".py", ".sql"})
MODULES = [path for path in FILES if path.suffix == ".py" and path.stat().st_size]
COMMAND_LINE = [path for path in (HOUSE / "cli.py", HOUSE / "cli") if path.exists()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

LONGEST = 350
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc"}

# A line in this file of the copy, and what the import linter must then say.
BREACHES = {
    "a stray module": ("utils.py", "", "- tocsin.utils\n"),
    "a tenth component": ("components/presence.py", "", "- tocsin.components.presence\n"),
    "an import that runs the other way": ("errors.py", "import tocsin.topology", "tocsin.errors -> tocsin.topology"),
    "a protocol that knows an engine": ("bus.py", "import tocsin.engines.embedded", "tocsin.bus -> tocsin.engines"),
    "a component that knows its neighbour": (
        "components/processor.py",
        "import tocsin.components.message_storage",
        "tocsin.components.processor -> tocsin.components.message_storage",
    ),
    "an engine that knows another": (
        "engines/embedded/__init__.py",
        "import tocsin.engines.file_keys",
        "tocsin.engines.embedded -> tocsin.engines.file_keys",
    ),
    "a gateway that knows an engine": (
        "gateways/__init__.py",
        "import tocsin.engines.embedded",
        "tocsin.gateways -> tocsin.engines.embedded",
    ),
    "a command line that knows a gateway": ("cli.py", "import tocsin.gateways", "tocsin.cli -> tocsin.gateways"),
    "a component that knows SQL": ("components/processor.py", "import apsw", "tocsin.components.processor -> apsw"),
    "a component that knows sockets": (
        "components/connection_handler.py",
        "from socket import socket",
        "tocsin.components.connection_handler -> socket",
    ),
    "a protocol that knows a web framework": ("clients.py", "import starlette", "tocsin.clients -> starlette"),
    "a frame reader that does I/O": ("gateways/frames.py", "import asyncio", "tocsin.gateways.frames -> asyncio"),
}


@pytest.fixture(scope="module")
def verdict_on_a_broken_house(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `lint-imports` says of a copy that has every breach."""
    folder = tmp_path_factory.mktemp("broken")
    house = shutil.copytree(HOUSE, folder / "src" / "tocsin", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for file in ("components/message_storage.py", "engines/file_keys.py"):  # what the breaches import
        (house / file).touch()
    for file, line, _ in BREACHES.values():
        with (house / file).open("a") as opened:
            opened.write(f"\n{line}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize("breach", BREACHES)
def test_the_import_contracts_notice(breach: str, verdict_on_a_broken_house: str) -> None:
    assert BREACHES[breach][2] in verdict_on_a_broken_house


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_a_file_opens_by_saying_its_place_and_is_long_only_for_a_reason(path: Path) -> None:
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "the file opens without a docstring"
    if text.count("\n") > LONGEST:
        assert re.search(r"^Long because", docstring, re.MULTILINE), (
            f"over {LONGEST} lines: part it, or say why in a line of the docstring that begins with 'Long because'"
        )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_a_file_is_named_for_what_it_holds(path: Path) -> None:
    for name in path.relative_to(HOUSE).with_suffix("").parts:
        assert not SAYS_NOTHING & set(name.split("_")), f"{name} says nothing: take the field's noun"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_no_class_is_a_manager(path: Path) -> None:
    names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert not [name for name in names if re.search(r"(Manager|Helper|Utils?|.Service)$", name)]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What another Python does with this text, on this tree's sources."""
    return subprocess.run(
        [sys.executable, "-B", "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_a_module_does_no_io() -> None:
    watch = """
import importlib, sys
import botocore.httpsession  # urllib3, beneath it, binds a socket to see whether there is IPv6

def forbid(event, arguments):
    writes = event == "open" and (arguments[1] or "r")[0] in "wax"
    if writes or event in {"socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen"}:
        raise SystemExit(f"{event} {arguments[0]!r} while importing {name}")

sys.addaudithook(forbid)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    modules = [path.relative_to(ROOT / "src").with_suffix("") for path in MODULES if path.stem != "__main__"]
    done = run(watch, *(".".join(module.parts).removesuffix(".__init__") for module in modules))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", COMMAND_LINE, ids=lambda path: path.name)
def test_the_command_line_starts_without_the_packages_of_the_server(path: Path) -> None:
    base = {Requirement(each).name for each in PROJECT["dependencies"]}
    server = {Requirement(each).name for each in PROJECT["optional-dependencies"]["server"]} - base
    hide = "import sys; sys.modules |= dict.fromkeys(sys.argv[1:]); import tocsin.cli"
    done = run(hide, *(name.replace("-", "_") for name in server))
    assert done.returncode == 0, done.stderr
