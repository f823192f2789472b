"""What an idle connection costs, measured from outside, on a server process of its own."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateways.peer import Peer

CONNECTIONS = 5_000
SERVER = """
import asyncio, uvloop
from tests.gateways.echo import Echo, admit, count_ids, echo_body
from tocsin.gateways.front import Front
from tocsin.gateways.port import PortSettings

class Forgetful(Echo):  # remembers neither requests nor happenings: their memory is the test's
    async def authorize(self, request, peer):
        return await admit(request)

    def opened(self, connection):
        pass

async def serve():
    front = Front(echo_body, Forgetful(), new_id=count_ids(), settings=PortSettings(connections_per_address=20_000))
    print(await front.start("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()

uvloop.run(serve())
"""


@pytest.fixture
async def server() -> AsyncIterator[tuple[int, int]]:
    """Process id and port of an echo."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert process.stdout is not None
    yield process.pid, int(await process.stdout.readline())
    process.kill()
    await process.wait()


def resident(pid: int) -> int:
    """KiB of memory that a process has in use."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


@pytest.mark.slow
async def test_an_idle_connection_costs_less_than_2_kib(server: tuple[int, int]) -> None:
    pid, port = server
    peers = [await Peer.connect(port) for _ in range(10)]  # what the first ones allocate is everyone's
    for peer in peers:
        assert (await peer.upgrade()).status == 101
    before = resident(pid)
    for _ in range(CONNECTIONS):
        peer = await Peer.connect(port)
        peers.append(peer)
        assert (await peer.upgrade()).status == 101
    each = (resident(pid) - before) / CONNECTIONS
    for peer in peers:
        peer.vanish()
    print(f"{each:.2f} KiB for each idle connection")
    assert each < 2.0
