"""`make aws-local` as a newcomer uses it: its commands are pasted as they are printed, and Ctrl-C ends it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Until it has deployed, and until a function that has not run yet has.
SECONDS = 200


@pytest.fixture(scope="module")
def printed() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program while it runs, and what it has said."""
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.deploy.local"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    text = ""
    for line in running.stdout:
        text += line
        if line.startswith("Ctrl-C"):
            break
    yield running, text
    running.kill()
    running.wait()
    running.stdout.close()


def variables(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(\S+)$", text, re.MULTILINE))


def listened(text: str) -> list[str]:
    """What the printed listener hears when the printed lines are typed there, until its own message comes."""
    command, *lines = re.findall(r"^\S+ -m websockets .*$|^\{.*\}$", text, re.MULTILINE)
    listener = subprocess.Popen(
        ["sh", "-c", command],
        cwd=ROOT,
        env=os.environ | variables(text),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdin is not None
    assert listener.stdout is not None
    heard = []
    for line, answer in zip(lines, ("subscribed", "message"), strict=True):
        listener.stdin.write(f"{line}\n")
        listener.stdin.flush()
        for said in listener.stdout:
            if found := re.search(r"< (\{.*\})", said):
                heard.append(json.loads(found[1])["type"])
                if heard[-1] == answer:
                    break
    listener.communicate()
    return heard


def test_the_printed_commands_run_as_they_are_pasted(
    printed: tuple[subprocess.Popen[str], str], program: Callable[[str], Path]
) -> None:
    program("curl")
    _, text = printed
    assert listened(text) == ["subscribed", "message"]
    publish, read, remove = re.findall(r"^curl (?:.|\n)*?(?=\n(?:curl|\n))", text, re.MULTILINE)

    def paste(command: str) -> dict[str, object]:
        done = subprocess.run(
            ["sh", "-ec", command], env=os.environ | variables(text), capture_output=True, text=True, check=True
        )
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    assert paste(publish)["duplicate"] is False
    deadline = time.monotonic() + SECONDS
    while (page := paste(read))["headSequence"] != 2:
        assert time.monotonic() < deadline, page
    assert paste(remove)["fenceSequence"] == 2
    assert paste(read)["code"] == "forbidden"


def test_ctrl_c_ends_it_and_the_emulator_with_it(printed: tuple[subprocess.Popen[str], str]) -> None:
    running, text = printed
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(variables(text)["REST"])
