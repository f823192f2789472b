"""A front on a free port, with the echo behind it; the loop is the one that the service runs on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import pytest
import uvloop
from starlette.types import ASGIApp

from tests.gateways.echo import Echo, Time, count_ids, echo_body
from tests.gateways.peer import Peer
from tocsin.gateways.front import Front
from tocsin.gateways.port import PortSettings

StartFront = Callable[..., Awaitable[Front]]
Connect = Callable[..., Awaitable[Peer]]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def start_front(echo: Echo, time: Time) -> AsyncIterator[StartFront]:
    """Starts a front with the given settings, clock, HTTP application; its port is `echo.port`."""
    async with AsyncExitStack() as stack:

        async def start(
            settings: PortSettings | None = None, clock: Callable[[], float] = time, http: ASGIApp = echo_body
        ) -> Front:
            front = Front(http, echo, new_id=count_ids(), settings=settings, clock=clock, refused=echo.refused.append)
            echo.port = await front.start("127.0.0.1", 0)
            stack.push_async_callback(front.stop, 0.2)
            return front

        yield start


@pytest.fixture
async def front(start_front: StartFront) -> Front:
    return await start_front()


@pytest.fixture
async def connect(echo: Echo) -> AsyncIterator[Connect]:
    """Connects a raw client to the front."""
    peers: list[Peer] = []

    async def connect(receive_buffer: int | None = None) -> Peer:
        peers.append(await Peer.connect(echo.port, receive_buffer))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.vanish()
