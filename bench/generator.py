"""Compiles load/ (the load generator, C) when its sources are newer, and runs it on a core of its own."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.servers import Failure, Server

SOURCES = Path(__file__).resolve().parent / "load"
Result = dict[str, Any]  # one JSON line of the generator; its shape is in load/<mode>.c


def compiled(folder: Path) -> Path:
    program, sources = folder / "load", sorted(SOURCES.glob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        folder.mkdir(parents=True, exist_ok=True)
        files = [str(source) for source in sources if source.suffix == ".c"]
        subprocess.run(["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(program), *files], check=True)
    return program


@dataclass(frozen=True, slots=True)
class Generator:
    program: Path
    core: int
    dialect: str

    def words(self, mode: str, port: int, options: dict[str, object]) -> list[str]:
        words = [
            "taskset",
            "-c",
            str(self.core),
            str(self.program),
            mode,
            "--port",
            str(port),
            "--dialect",
            self.dialect,
        ]
        for name, value in options.items():
            if value is True:
                words += [f"--{name.replace('_', '-')}"]
            elif value is not None and value is not False:
                words += [f"--{name.replace('_', '-')}", str(value)]
        return words

    def run(self, mode: str, server: Server, **options: object) -> list[Result]:
        """One result for each line that the mode prints; a failed run ends the benchmark."""
        port = server.rest_port if mode == "http" else server.port
        words = self.words(mode, port, {"server_pid": server.pid, **options})
        done = subprocess.run(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=False)
        if done.returncode:
            raise Failure(f"the load generator failed: {' '.join(words)}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    @contextlib.contextmanager
    def held(self, server: Server, **options: object) -> Iterator[Result]:
        """Connections that stay for as long as the block lasts."""
        words = self.words("connect", server.port, {"server_pid": server.pid, "hold": True, **options})
        with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise Failure("the load generator failed")
            yield json.loads(line)
            process.communicate()
