"""Failpoints: off unless asked for, and then exactly where, when and as asked."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from tocsin.failpoints import NAMES, FailpointError, Failpoints
from tocsin.message import Message


def message(text: str) -> Message:
    return Message(
        message_id="m",
        chat_id="c1",
        target_channel="WebSocket",
        timestamp=1,
        sequence_number=1,
        ordered=True,
        body=text.encode(),
    )


def fails(failpoints: Failpoints, name: str, *texts: str) -> bool:
    try:
        failpoints.hit(name, [message(text) for text in texts])
    except FailpointError:
        return True
    return False


async def test_unasked_nothing_happens_anywhere() -> None:
    failpoints = Failpoints()
    assert not failpoints.armed
    for name in NAMES:
        failpoints.hit(name)
        await failpoints.reach(name, [message("x")])


@pytest.mark.parametrize(
    "specification",
    [
        "made.up=kill",
        "publish.accepted",
        "publish.accepted=explode",
        "publish.accepted=stall",
        "publish.accepted=stall:x",
        "publish.accepted=raise@",
        "publish.accepted=raise@x",
        "publish.accepted=kill;expire.mid=kill",
        " publish.accepted=kill",
    ],
)
def test_what_is_no_failpoint_is_refused_by_its_text(specification: str) -> None:
    with pytest.raises(ValueError, match="is not a failpoint"):
        Failpoints(specification)


def test_one_that_raises_does_so_every_time_and_nowhere_else() -> None:
    failpoints = Failpoints("expire.mid=raise")
    assert failpoints.armed
    assert [fails(failpoints, name) for name in ("expire.mid", "processor.done", "expire.mid")] == [True, False, True]


def test_the_nth_time_is_the_only_one() -> None:
    failpoints = Failpoints("expire.mid=raise@3,processor.done=raise@1")
    assert [fails(failpoints, "expire.mid") for _ in range(5)] == [False, False, True, False, False]
    assert [fails(failpoints, "processor.done") for _ in range(2)] == [True, False]


def test_a_text_is_looked_for_and_a_batch_that_holds_it_must_come_apart() -> None:
    failpoints = Failpoints("processor.before_audience=raise@2~POI SON")
    name = "processor.before_audience"
    assert not fails(failpoints, name, "innocent")
    assert not fails(failpoints, name)
    assert fails(failpoints, name, "innocent", "POI SON")  # does not count: nobody knows yet whose it is
    assert [fails(failpoints, name, "a POI SON b") for _ in range(3)] == [False, True, False]


async def test_a_stall_holds_up_a_task_and_not_the_loop() -> None:
    failpoints = Failpoints("subscribe.registered=stall:30")
    began = time.monotonic()
    stalled = asyncio.ensure_future(failpoints.reach("subscribe.registered"))
    await asyncio.sleep(0)
    assert not stalled.done()
    assert time.monotonic() - began < 0.03
    await stalled
    assert time.monotonic() - began >= 0.029


def test_a_stall_of_what_does_not_wait_holds_up_its_thread() -> None:
    began = time.monotonic()
    Failpoints("commit.before_sync=stall:10").hit("commit.before_sync")
    assert time.monotonic() - began >= 0.0099


def test_a_kill_leaves_no_time_for_anything() -> None:
    program = (
        "from tocsin.failpoints import Failpoints\n"
        "failpoints = Failpoints('commit.after_sync=kill@2')\n"
        "try:\n"
        "    for number in range(5):\n"
        "        print(number, flush=True)\n"
        "        failpoints.hit('commit.after_sync')\n"
        "finally:\n"
        "    print('too late', flush=True)\n"
    )
    path = os.pathsep.join(filter(None, sys.path))
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == [b"0", b"1"]
