"""Packs the functions' code: what the `aws` extra asks for, as locked, and tocsin itself, in one folder.

    build/deploy/bin/python -m deploy.aws.package build/functions     (make synth)

Rules:
- only what is locked gets in, and only if its hash is the lock's (uv checks what a constraint says);
- wheels alone, for Lambda's Python and processor: nothing is built, so this machine need not be like Lambda's;
- what only the command line needs stays out: a function's cold start pays for each megabyte;
- the code comes compiled, for Lambda can write nothing beside it and would compile all of it at each start. Neither a
  time nor this machine's folders are in what is compiled: the same sources make the same package. Only the Python that
  will run it can compile it; packed by another one, it goes as it is, and that is said.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
#: Lambda's (compute.py).
PYTHON: Final = "3.13"
LAMBDA: Final = ("--python-platform", "aarch64-manylinux2014", "--python-version", PYTHON)
#: Where the package lies when a function starts.
TASK: Final = "/var/task"


def pack(folder: Path, python: Path | None = None) -> None:
    """Anew, each time. `python`: an interpreter to pack for in Lambda's place, as the emulator's is."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shutil.rmtree(folder, ignore_errors=True)
    where = LAMBDA if python is None else ("--python", str(python))
    command = [
        str(Path(sys.executable).with_name("uv")),
        *("pip", "install", "--quiet", "--system-certs", "--only-binary", ":all:"),
        *("--target", str(folder), *where),
        *("--constraint", str(ROOT / "requirements" / "aws.txt")),
        *project["optional-dependencies"]["aws"],
    ]
    subprocess.run(command, check=True)  # noqa: S603 - our own words
    shutil.rmtree(folder / "bin")
    (folder / ".lock").unlink(missing_ok=True)
    shutil.copytree(ROOT / "src" / "tocsin", folder / "tocsin", ignore=shutil.ignore_patterns("__pycache__"))
    if python is not None or here == PYTHON:
        _compile(folder, python or Path(sys.executable))
    else:
        sys.stderr.write(f"Nothing is compiled: this is Python {here}, and Lambda's is {PYTHON}.\n")


def _compile(folder: Path, python: Path) -> None:
    """Each file beside its source, which is not looked at again when it is loaded."""
    command = [
        *(str(python), "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
        *("-s", str(folder), "-p", TASK, str(folder)),
    ]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "0"})  # noqa: S603 - our own words


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m deploy.aws.package", description="Pack the functions' code.")
    parser.add_argument("folder", type=Path, help="where it goes; what is there is replaced")
    parser.add_argument("--python", type=Path, help="pack for this interpreter, not for Lambda's")
    given = parser.parse_args()
    pack(given.folder, given.python)
