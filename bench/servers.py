"""How each server is started: a command, pinned to a core, on a fresh folder; and what it costs, from /proc."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.issuer import AUDIENCE

NAMES = ("tocsin", "baseline")
START_SECONDS = 30
STOP_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One that runs: `port` takes WebSockets, `rest_port` requests (the same port, if the server can)."""

    name: str
    pid: int
    port: int
    rest_port: int

    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def cpu(self) -> float:
        """Processor seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self, seconds: float = 30) -> None:
        """Return once it rests (under 5 % of a core), or after `seconds`: then it never does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before = self.cpu()
            time.sleep(0.4)
            if self.cpu() - before < 0.02:
                return


def command(name: str, data: Path, port: int, rest_port: int, issuer: str) -> list[str]:
    common = [f"--data={data}", f"--port={port}", f"--issuer={issuer}", f"--audience={AUDIENCE}"]
    if name == "tocsin":
        lifted = ["--publish-rate=1000000", "--publish-burst=1000000"]
        lifted += ["--connections-per-user=100000", "--connections-per-address=100000"]
        return [str(Path(sys.executable).parent / "tocsin"), "serve", "--ops-port=0", *common, *lifted]
    if not (importlib.util.find_spec("fastapi") and importlib.util.find_spec("jwt")):
        raise SystemExit(f"the baseline needs: {sys.executable} -m pip install -r bench/baseline/requirements.txt")
    script = Path(__file__).resolve().parent / "baseline" / "server.py"
    return [sys.executable, str(script), f"--rest-port={rest_port}", *common]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def started(name: str, data: Path, issuer: str, core: int) -> Iterator[Server]:
    """Run it for as long as the block lasts; its log is beside its data."""
    port, rest_port = free_ports(2)
    if name == "tocsin":
        rest_port = port
    data.mkdir(parents=True)
    with (data.parent / f"{data.name}.log").open("wb") as log:
        words = ["taskset", "-c", str(core), *command(name, data, port, rest_port, issuer)]
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            for each in {port, rest_port}:
                await_port(each, process, Path(log.name))
            yield Server(name=name, pid=process.pid, port=port, rest_port=rest_port)
        except SystemExit as failure:
            if process.poll() is not None:
                raise SystemExit(
                    f"{failure}\n{name} had ended ({process.returncode}):\n{tail(Path(log.name))}"
                ) from None
            raise
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None:
                raise SystemExit("the server did not start") from None
            if time.monotonic() > deadline:
                raise SystemExit(f"the server did not answer in {START_SECONDS} s:\n{tail(log)}") from None
            time.sleep(0.05)
        else:
            return


def tail(log: Path, size: int = 3000) -> str:
    return log.read_bytes()[-size:].decode(errors="replace")
