"""How each server is started: a command, pinned to a core, on a fresh folder; and what it costs, from /proc."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.issuer import AUDIENCE

NAMES = ("tocsin", "baseline", "centrifugo")
START_SECONDS = 30
STOP_SECONDS = 30


class Failure(Exception):
    """A scenario that cannot give figures."""


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


def command(launch: "Launch", data: Path, port: int, rest_port: int, kept: int) -> list[str]:
    common = [f"--data={data}", f"--port={port}", f"--issuer={launch.issuer}", f"--audience={AUDIENCE}"]
    if launch.name == "tocsin":
        lifted = ["--publish-rate=1000000", "--publish-burst=1000000"]
        lifted += ["--connections-per-user=100000", "--connections-per-address=100000"]
        return [str(Path(sys.executable).parent / "tocsin"), "serve", "--ops-port=0", *common, *lifted]
    if launch.name == "centrifugo":
        settings = data / "settings.json"
        settings.write_text(json.dumps(centrifugo_settings(launch, port, kept)))
        return [str(launch.binary), f"--config={settings}"]
    if not (importlib.util.find_spec("fastapi") and importlib.util.find_spec("jwt")):
        raise Failure(f"the baseline needs: {sys.executable} -m pip install -r bench/baseline/requirements.txt")
    script = Path(__file__).resolve().parent / "baseline" / "server.py"
    return [sys.executable, str(script), f"--rest-port={rest_port}", *common]


def centrifugo_settings(launch: "Launch", port: int, kept: int) -> dict[str, object]:
    """The same tokens; no permissions beside them; numbers and history only where a scenario needs them (`kept`)."""
    trust = {"jwks_public_endpoint": f"{launch.issuer}/keys", "issuer": launch.issuer, "audience": AUDIENCE}
    rights = {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
    history = {"history_size": kept, "history_ttl": "1h", "force_recovery": True} if kept else {}
    settings: dict[str, object] = {
        "http_server": {"address": "127.0.0.1", "port": port},
        "client": {"token": trust | {"insecure_skip_jwks_endpoint_safety_check": True}},
        "channel": {"without_namespace": rights | history},
        "http_api": {"insecure": True},
        "usage_stats": {"disabled": True},
        "log": {"level": "warn"},
    }
    if launch.postgres:
        settings["broker"] = {"enabled": True, "type": "postgres", "postgres": {"dsn": launch.postgres}}
    return settings


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Which server, on which core, and whose tokens it trusts; `binary` and `postgres` (a DSN) are for Centrifugo."""

    name: str
    core: int
    issuer: str
    binary: Path | None = None
    postgres: str = ""

    @property
    def dialect(self) -> str:
        return "centrifugo" if self.name == "centrifugo" else "tocsin"


@contextlib.contextmanager
def started(launch: Launch, data: Path, kept: int = 0) -> Iterator[Server]:
    """Run it for as long as the block lasts; its log is beside its data. `kept`: messages of history in each chat."""
    name = launch.name
    port, rest_port = free_ports(2)
    if name != "baseline":
        rest_port = port
    data.mkdir(parents=True)
    with (data.parent / f"{data.name}.log").open("wb") as log:
        words = ["taskset", "-c", str(launch.core), *command(launch, data, port, rest_port, kept)]
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            for each in {port, rest_port}:
                await_port(each, process, Path(log.name))
            yield Server(name=name, pid=process.pid, port=port, rest_port=rest_port)
        except Failure as failure:
            if process.poll() is not None:
                raise Failure(f"{failure}\n{name} had ended ({process.returncode}):\n{tail(Path(log.name))}") from None
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
                raise Failure("the server did not start") from None
            if time.monotonic() > deadline:
                raise Failure(f"the server did not answer in {START_SECONDS} s:\n{tail(log)}") from None
            time.sleep(0.05)
        else:
            return


def tail(log: Path, size: int = 3000) -> str:
    return log.read_bytes()[-size:].decode(errors="replace")
