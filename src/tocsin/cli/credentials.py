"""The token that a command presents: from a file, else from TOCSIN_TOKEN; never from a flag, which `ps` would show."""

import os
import re
import stat
from pathlib import Path
from typing import Final

import typer

from tocsin.cli.failure import Failure
from tocsin.cli.printing import say

_TOKEN: Final = re.compile(r"[!-~]{1,8192}", re.ASCII)


class Token:
    """Read anew for every request, since a file may be renewed while `tocsin tail` runs."""

    def __init__(self, path: Path | None) -> None:
        self._path: Final = path
        self._warned = False

    def read(self) -> str:
        if self._path is None:
            source, text = "TOCSIN_TOKEN", os.environ.get("TOCSIN_TOKEN", "")
            if not text:
                raise typer.BadParameter("a token is needed; or put it into TOCSIN_TOKEN.", param_hint="--token-file")
        else:
            source = str(self._path)
            with self._path.open(encoding="latin-1") as file:
                self._warn(os.fstat(file.fileno()))
                text = file.read(16_384)
        if not _TOKEN.fullmatch(text.strip()):
            raise Failure(f"{source} does not hold a token.")
        return text.strip()

    def _warn(self, status: os.stat_result) -> None:
        """A warning only: what an orchestrator mounts, or a pipe, is not ours to lock."""
        if not self._warned and stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
            say(f"others can read the token in {self._path}; run: chmod 600 {self._path}")
        self._warned = True
