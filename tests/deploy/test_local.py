"""`make aws-local` as a newcomer uses it: its commands and the guide's are pasted as they stand, and Ctrl-C ends it."""

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
from tests.test_docs import ON_AWS, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Until it has deployed, and until a function that has not run yet has.
SECONDS = 200


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program, and all that it starts, may leave something."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def printed(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program while it runs, and what it has said."""
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.deploy.local"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    text = ""
    for line in running.stdout:
        text += line
        if line.startswith("Ctrl-C"):
            break
    yield running, text
    running.terminate()
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


def test_the_quick_starts_commands_run_as_they_are_pasted(
    printed: tuple[subprocess.Popen[str], str], program: Callable[[str], Path]
) -> None:
    """From where `tocsin` is not on the PATH."""
    program("curl")
    path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if ".venv" not in folder)
    wrong = run(ON_AWS, variables(printed[1]) | {"PATH": path}, ROOT)
    assert not wrong


def test_ctrl_c_ends_it_and_nothing_of_it_is_left(printed: tuple[subprocess.Popen[str], str], temporary: Path) -> None:
    """The functions have run, each in a process with a copy of the code."""
    running, text = printed
    assert list(temporary.glob("ministack-*/ministack-lambda-*/code"))
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(variables(text)["REST"])
    assert list(temporary.iterdir()) == []
    assert processes_in(temporary) == []


def processes_in(folder: Path) -> list[str]:
    """Commands of the processes that work in it, also where it is no longer there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(process.joinpath("cwd").readlink()).startswith(str(folder)):
                found.append(process.joinpath("cmdline").read_text())
        except OSError:
            continue  # it has ended, or has done so and waits to be reaped
    return found
