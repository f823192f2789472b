"""The real process and its faults: `tocsin serve` on one folder and one port, through any number of lives.

Rules: nothing of the service is imported. A readiness check has a deadline and says what the service printed. Whoever
starts a service leaves it through `async with`, which kills it.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

HOST: Final = "127.0.0.1"
PROGRAM: Final = (sys.executable, "-m", "tocsin")
#: The user whose token has every scope.
BACK_END: Final = "service"
SCOPES: Final = ("publish:any", "permissions:write", "messages:read", "connections:manage")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
TICKS: Final = os.sysconf("SC_CLK_TCK")
#: Seconds that a return from kill -9 may take: of CPU what is promised, of the wall four times that, because the tests'
#: own load and whatever else the machine does leave it less than a core. (On a quiet machine they are the same.)
READY_CPU, READY_WALL = 2.0, 8.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**extra: str) -> dict[str, str]:
    """Ours, without what could set the service's flags."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")} | extra


def mint(data: Path, users: Sequence[str]) -> dict[str, str]:
    """user -> token, a day long; the service's with every scope. The first makes the folder's key."""
    tokens: dict[str, str] = {}
    for user in users:
        scopes = [part for scope in SCOPES for part in ("--scope", scope)] if user == BACK_END else []
        tokens[user] = run_cli("token", "--data", str(data), "--user", user, "--ttl", "86400", *scopes).strip()
    return tokens


def run_cli(*arguments: str) -> str:
    """What `tocsin …` printed. `AssertionError` with what it complained of, unless it ended with 0."""
    done = subprocess.run(
        [*PROGRAM, *arguments], env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"tocsin {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
    return done.stdout


class Service:
    """`flags` are given at every start. `output` is what all lives printed, both streams."""

    def __init__(self, data: Path, tokens: Mapping[str, str], *, flags: Sequence[str] = ()) -> None:
        self.data = data
        self.tokens = tokens
        self.flags = tuple(flags)
        self.port: Final = free_port()
        self.ops_port: Final = free_port()
        self._log: Final = data.parent / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        if self._process is not None:
            self.kill()

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self.port}/dvl"

    @property
    def socket_url(self) -> str:
        return f"ws://{HOST}:{self.port}/dvl"

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the service was never started"
        return self._process

    def spawn(self, failpoints: str = "", *, flags: Sequence[str] = ()) -> None:
        command = [*PROGRAM, "serve", "--data", str(self.data), "--host", HOST, "--port", str(self.port)]
        command += ["--ops-port", str(self.ops_port), *self.flags, *flags]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment(TOCSIN_FAILPOINTS=failpoints), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    async def start(self, failpoints: str = "", *, flags: Sequence[str] = (), deadline: float = 40.0) -> None:
        """Returns when it is ready."""
        before = time.monotonic()
        self.spawn(failpoints, flags=flags)
        while not await self.is_ready():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output[-4000:]}"
            assert time.monotonic() - before < deadline, f"not ready in {deadline} s:\n{self.output[-4000:]}"
            await asyncio.sleep(0.01)

    async def come_back(self, failpoints: str = "") -> None:
        """As `start`, after kill -9: ready within 2 s."""
        await self.start(failpoints, deadline=READY_WALL)
        assert self.used <= READY_CPU, f"{self.used} s of CPU until it was ready again"

    async def is_ready(self) -> bool:
        try:
            return await self.ask_ops("/readyz") == 200
        except OSError:
            return False

    async def ask_ops(self, path: str) -> int:
        """The status that the ops listener answers with."""
        reader, writer = await asyncio.open_connection(HOST, self.ops_port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readline(), 5)
            return int(head.split()[1]) if head else 0
        finally:
            writer.close()

    def kill(self) -> None:
        """kill -9; a process that has ended already is no error."""
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, deadline: float) -> int:
        """The exit status, negative for a signal."""
        try:
            return await asyncio.to_thread(self.process.wait, deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {deadline} s:\n{self.output[-4000:]}") from None

    @property
    def used(self) -> float:
        """Seconds of CPU, of all its threads (proc(5), stat)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def resident(self) -> int:
        """Bytes of memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


def copy_folder(source: Path, to: Path) -> Path:
    """A stopped service's folder; its sockets are not copied."""
    return shutil.copytree(source, to, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
