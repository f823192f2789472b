"""The command line: against a service over its URL, over its folder's socket, and on a folder alone.

Rule: a service is started by `tocsin serve`, which says when it is ready, and is ended by its process. A command is
called here, as its process would call it, because that is faster; where it is about the process (pipes, signals, how it
starts and ends) it is one.
"""

import contextlib
import fcntl
import inspect
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pytest
import structlog
from packaging.requirements import Requirement
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from tocsin.cli import run, values
from tocsin.cli.serve import serve
from tocsin.engines.embedded.data_folder import DataFolder
from tocsin.profiles.embedded import Settings

PROGRAM: Final = (sys.executable, "-m", "tocsin")
ROOT: Final = Path(__file__).parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHAT: Final = "chat-abc123"
BACKEND: Final = ("--scope", "publish:any", "--scope", "permissions:write", "--scope", "messages:read")
#: Where this is set, a message with POISON in it fails at every try.
POISONED: Final = {"TOCSIN_FAILPOINTS": "processor.before_audience=raise~POISON"}
DEADLINE_S: Final = 30.0


def environment(**extra: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")} | extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def stream(content: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", write_through=True)


def printed_on(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def tocsin(*arguments: object, text: str = "", **extra: str) -> Done:
    """`text` stands on stdin, `extra` are variables. What a command changes of its process is put back."""
    words = [str(argument) for argument in arguments]
    printed, complaint = stream(), stream()
    umask = os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environment().keys():
            patch.delenv(name)
        for name, value in extra.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", stream(text.encode()))
        patch.setattr(sys, "stdout", printed)
        patch.setattr(sys, "stderr", complaint)
        try:
            code = run(words)
        finally:
            os.umask(umask)
            structlog.reset_defaults()
    return Done(returncode=code, stdout=printed_on(printed), stderr=printed_on(complaint))


def process(*arguments: object, **extra: str) -> Done:
    """As `tocsin`, by a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


def said(*arguments: object, text: str = "", **extra: str) -> str:
    """What it printed, once it has ended with 0 and no complaint."""
    done = tocsin(*arguments, text=text, **extra)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complained(code: int, *arguments: object, **extra: str) -> str:
    """The one sentence of a command that has ended with `code` and has printed nothing else."""
    done = tocsin(*arguments, **extra)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("tocsin: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def misused(*arguments: object, **extra: str) -> str:
    """The one sentence of a command that ends with 2."""
    return complained(2, *arguments, **extra)


class Payload(msgspec.Struct, rename="camel"):
    event_type: str
    content: object


class Message(msgspec.Struct, rename="camel"):
    sender_id: str
    payload: Payload
    sequence_number: int | None = None


def contents(lines: str) -> list[object]:
    """Of messages as lines of JSON."""
    return [msgspec.json.decode(line, type=Message).payload.content for line in lines.splitlines()]


class Service:
    """`tocsin serve` on a folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = ""
        self.output = ""
        self._log = data.parent / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, **extra: str) -> None:
        """Returns once it listens."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*PROGRAM, "serve", "--data", str(self.data), "--port", "0", "--ops-port", "0", *flags],
                env=environment(**extra),
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,  # what follows the first line stays in the pipe
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line.startswith("listening on "), self._log.read_text()
        self.url = line.removeprefix("listening on ").strip()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        self.output = self._process.communicate(timeout=DEADLINE_S)[0].decode()
        return self._process.returncode

    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def close(self) -> None:
        if self._process is not None:
            with self._process:  # closes its pipes
                self._process.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that every test may publish to, each in a chat of its own."""
    with contextlib.closing(Service(tmp_path_factory.mktemp("shared") / "data")) as service:
        service.start(**POISONED)
        yield service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Not started yet."""
    with contextlib.closing(Service(tmp_path / "data")) as service:
        yield service


def token_file(service: Service, user: str, *scopes: str) -> Path:
    path = service.data.parent / f"{user}.token"
    path.touch(mode=0o600)
    path.write_text(said("token", "--data", service.data, "--user", user, *scopes))
    return path


def eventually(claim: Callable[[], bool]) -> None:
    """Asks again until it holds; each asking runs a program, which is pause enough."""
    deadline = time.monotonic() + DEADLINE_S
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_every_setting_of_the_profile_has_a_flag_with_the_same_default_and_a_variable() -> None:
    flags = inspect.signature(serve).parameters
    settings = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    defaults = {
        name: () if flag.default is None and settings.get(name) == () else flag.default for name, flag in flags.items()
    }
    assert defaults | {"retention": values.duration(flags["retention"].default)} == settings
    for name, flag in flags.items():
        (option,) = flag.annotation.__metadata__
        assert option.envvar == f"TOCSIN_{name.upper()}"


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [
        ("--port", "99999", "from 0 to 65535"),
        ("--ops-port", "-1", "from 0 to 65535"),
        ("--host", "a b", "an address"),
        ("--base-path", "dvl", "such as /dvl"),
        ("--base-path", "/dvl/", "none at its end"),
        ("--retention", "banana", "such as 30d"),
        ("--retention", "30", "such as 30d"),
        ("--retention", "99999999d", "such as 30d"),
        ("--retention", "0s", "such as 30d"),
        ("--idle-limit", "10", "0, or a whole number with its unit"),
        ("--connection-life", "0h", "such as 30d"),
        ("--trusted-proxy", "10.0.0.1/8", "a network"),
        ("--allowed-origin", "https://app.example.com/", "without a path"),
        ("--allowed-origin", "*", "an origin"),
        ("--issuer", "http://issuer.example.com", "an https URL"),
        ("--publish-rate", "nan", "above 0"),
        ("--publish-burst", "0", "above 0"),
        ("--chats-per-connection", "0", "from 1"),
        ("--claim-capacity", "many", "a whole number"),
        ("--restored", "perhaps", "true"),
        ("--log-format", "xml", "text or json"),
        ("--failpoints", "everywhere=kill", "name=kill"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name_its_value_and_what_is_allowed(
    flag: str, value: str, allowed: str, tmp_path: Path
) -> None:
    variable = "TOCSIN_" + flag.strip("-").replace("-", "_").upper()
    words = ("serve", "--data", tmp_path / "data")
    sentence = misused(*words, **{variable: value})
    assert flag in sentence
    assert variable in sentence
    assert value in sentence
    assert allowed in sentence
    if flag != "--restored":
        assert misused(*words, f"{flag}={value}") == sentence
    assert not (tmp_path / "data").exists()


def test_a_wrong_setting_ends_the_program_with_2(tmp_path: Path) -> None:
    words = ("serve", "--data", tmp_path / "data", "--port", "99999")
    assert process(*words) == Done(returncode=2, stdout="", stderr=misused(*words))


def test_what_an_outside_issuer_needs_is_asked_for() -> None:
    issuer = ("--issuer", "https://issuer.example.com")
    assert "--audience" in misused("serve", *issuer)
    assert "--issuer" in misused("serve", "--jwks-url", "https://issuer.example.com/keys")
    assert "--examples" in misused("serve", *issuer, "--audience", "us", "--examples")


def test_no_password_in_a_wrong_setting_is_repeated() -> None:
    assert "secret" not in misused("serve", "--issuer", "https://me:secret@issuer.example.com")


def test_without_the_packages_of_the_server_it_says_what_to_install() -> None:
    base = {Requirement(each).name for each in PROJECT["dependencies"]}
    server = {Requirement(each).name for each in PROJECT["optional-dependencies"]["server"]} - base
    hide = "import sys; sys.modules |= dict.fromkeys(sys.argv.pop(1).split()); from tocsin.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hide, " ".join(name.replace("-", "_") for name in server), "serve"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'tocsin[server]'" in done.stderr
    assert "Traceback" not in done.stderr


# -- how it speaks -----------------------------------------------------------------------------------------------------


def test_alone_it_shows_what_there_is() -> None:
    shown = said()
    for name in (
        "serve",
        "restore",
        "token",
        "publish",
        "tail",
        "history",
        "grant",
        "revoke",
        "permissions",
        "dlq",
        "bench",
    ):
        assert f" {name} " in shown
    assert said("--version").strip() == PROJECT["version"]


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "serve --nonsense",
        "tail",
        "grant alice chat king",
        "token --user a/b",
        "permissions",
        "dlq purge",
        "dlq purge 1 --all",
        "history bad/chat",
        "history chat --from 2 --to 1",
        "history chat --from 2 --since 2026-01-01T00:00:00Z",
        "history chat --url ftp://host",
        "history chat --url http://127.0.0.1:1 --data .",
        "history chat --url http://127.0.0.1:1",  # and no token
    ],
)
def test_wrong_use_ends_with_2(words: str) -> None:
    misused(*words.split())


def test_a_service_that_does_not_answer_is_a_failure() -> None:
    nowhere = ("--url", "http://127.0.0.1:1/dvl")
    for words in (("history", CHAT), ("tail", CHAT), ("grant", "alice", CHAT, "owner"), ("publish", CHAT, "hi")):
        assert "Connection refused" in complained(1, *words, *nowhere, TOCSIN_TOKEN="a.b.c")


def test_the_help_shows_defaults_as_they_would_be_given() -> None:
    defaults = re.findall(r"\[default: (.+?)\]", said("serve", "--help"))
    assert {"30d", "0"} <= set(defaults)
    assert not [default for default in defaults if "(" in default]


def test_a_pipe_that_closes_is_no_error(shared: Service) -> None:
    said("publish", "chat-pipe", "hi", "--data", shared.data)
    for words in (["history", "chat-pipe", "--data", str(shared.data)], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        try:
            done = subprocess.run(
                [*PROGRAM, *words], env=environment(), stdout=write, stderr=subprocess.PIPE, text=True, check=False
            )
        finally:
            os.close(write)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_somebody_has_written_cannot_steer_the_terminal(shared: Service) -> None:
    said("publish", "chat-escape", "\x1b[2J\nalice  says\x9b1m", "--data", shared.data)
    line = said("history", "chat-escape", "--data", shared.data)
    assert line.endswith("\\x1b[2J\\nalice  says\\x9b1m\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize("setting", ["port", "ops-port"])
def test_a_port_that_is_taken_is_named_with_the_setting_that_moves_it(setting: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = str(holder.getsockname()[1])
        ports = {"port": "0", "ops-port": "0"} | {setting: taken}
        flags = [word for name, port in ports.items() for word in (f"--{name}", port)]
        done = process("serve", "--data", tmp_path / "data", *flags)
    variable = f"TOCSIN_{setting.upper().replace('-', '_')}"
    assert (done.returncode, done.stdout) == (1, "")
    for words in (f"127.0.0.1:{taken}", "in use", f"--{setting} ", variable):
        assert words in done.stderr


def test_make_run_serves_where_it_is_told(program: Callable[[str], Path]) -> None:
    program("make")
    wanted = ["make", "--dry-run", "run", "PORT=1", "OPS_PORT=2", "DATA=elsewhere"]
    done = subprocess.run(wanted, cwd=ROOT, capture_output=True, text=True, check=True)
    assert '--port 1 --ops-port 2 --data "elsewhere"' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["IDLE_LIMIT", "CONNECTION_LIFE"])
def test_a_connection_ends_when_a_setting_says_so(service: Service, setting: str) -> None:
    service.start(**{f"TOCSIN_{setting}": "1s"})
    token = said("token", "--data", service.data, "--user", "alice").strip()
    with (
        connect(f"ws{service.url.removeprefix('http')}?token={token}") as connection,
        pytest.raises(ConnectionClosedOK) as closed,
    ):
        connection.recv(timeout=DEADLINE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


@pytest.mark.slow
def test_a_tail_goes_on_when_its_connection_has_reached_its_age(service: Service) -> None:
    data = ("--data", service.data)
    service.start("--connection-life", "1s")
    token = said("token", *data, "--user", "alice").strip()
    with contextlib.closing(Tail(CHAT, "--from", 1, *data)) as tail:
        for text in ("one", "two", "three"):
            said("publish", CHAT, text, "--type", "fifo", *data)
            assert tail.read(1) == [text]
            with (
                connect(f"ws{service.url.removeprefix('http')}?token={token}") as younger,
                pytest.raises(ConnectionClosedOK),  # and so the tail's was closed before
            ):
                younger.recv(timeout=DEADLINE_S)
        _, rest, complaint = tail.interrupt()
    assert rest == ""
    assert "lost: 1001 The connection has reached its age; open another one; the next try" in complaint


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_printed_alone_and_counts_while_a_service_holds_the_folder(shared: Service) -> None:
    printed = said("token", "--data", shared.data, "--user", "alice", "--ttl", "60")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", printed)
    listed = said("permissions", "--user", "alice", "--url", shared.url, TOCSIN_TOKEN=printed.strip())
    assert listed.split() == ["USER", "CHAT", "ROLE", "GRANTED", "BY", "GRANTED", "AT"]


def test_a_missing_key_is_made_in_a_folder_that_only_its_owner_can_open(tmp_path: Path) -> None:
    said("token", "--data", tmp_path / "new", "--user", "alice")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["keys"]
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_scope_that_there_is_not_is_wrong_use(tmp_path: Path) -> None:
    assert "publish:any" in misused("token", "--data", tmp_path, "--user", "alice", "--scope", "everything")


def test_a_token_that_others_can_read_is_warned_of(shared: Service) -> None:
    path = token_file(shared, "erin")
    path.chmod(0o644)
    done = tocsin("permissions", "--user", "erin", "--url", shared.url, "--token-file", path)
    assert done.returncode == 0
    assert done.stderr == f"tocsin: others can read the token in {path}; run: chmod 600 {path}\n"


@pytest.mark.slow
def test_the_key_is_rotated_by_hand_as_the_guide_says(service: Service, program: Callable[[str], Path]) -> None:
    program("openssl")
    service.start()
    guide = (ROOT / "docs" / "authorization.md").read_text()
    (commands,) = re.findall(r"```bash\n(umask 077\n.*?)```", guide, re.DOTALL)
    before = said("token", "--data", service.data, "--user", "alice").strip()
    subprocess.run(["sh", "-e"], input=commands, cwd=service.data.parent, capture_output=True, text=True, check=True)
    after = said("token", "--data", service.data, "--user", "alice").strip()
    assert before.partition(".")[0] != after.partition(".")[0], "another key"

    def counts(token: str) -> bool:
        return tocsin("permissions", "--user", "alice", "--url", service.url, TOCSIN_TOKEN=token).returncode == 0

    eventually(lambda: counts(after))
    assert counts(before)
    (service.data / "keys" / "signing-0001.pem").unlink()
    service.stop()
    service.start()
    assert counts(after)
    assert not counts(before)


# -- messages and permissions ------------------------------------------------------------------------------------------


def test_over_its_url_a_service_is_used_with_a_token(shared: Service) -> None:
    chat = "chat-url"
    backend, alice = token_file(shared, "backend", *BACKEND), token_file(shared, "alice")
    as_backend = ("--url", shared.url, "--token-file", backend)
    as_alice = ("--url", shared.url, "--token-file", alice)
    assert "not allowed" in complained(1, "publish", chat, "hi", *as_alice)
    granted = msgspec.json.decode(said("grant", "alice", chat, "member", "--json", *as_backend), type=dict[str, str])
    assert (granted["role"], granted["grantedBy"]) == ("member", "backend")
    said("publish", chat, "one", "--type", "fifo", *as_alice)
    said("publish", chat, '{"two": [1E+300]}', "--type", "fifo", "--event-type", "numbers", *as_alice)
    said("publish", chat, "-", "--text", *as_alice, text="[3]\n")
    assert contents(said("history", chat, "--json", *as_alice)) == ["one", {"two": [1e300]}, "[3]"]
    assert '{"two": [1E+300]}' in said("history", chat, "--from", "2", "--to", "2", *as_alice)
    assert said("history", chat, "--limit", "1", *as_alice).split()[::2] == ["-", "alice", "[3]"]
    assert said("history", chat, "--until", "2001-01-01T00:00:00Z", *as_alice) == ""
    revoked = msgspec.json.decode(said("revoke", "alice", chat, "--json", *as_backend), type=dict[str, object])
    assert revoked == {"userId": "alice", "chatId": chat, "fenceSequence": 2}
    assert "not allowed" in complained(1, "history", chat, *as_alice)


def test_a_repeated_publish_with_an_id_is_one_message(shared: Service) -> None:
    words = ("publish", "chat-id", "hi", "--id", "first", "--data", shared.data)
    first, second = said(*words), said(*words)
    assert second.split()[:2] == first.split()[:2]
    assert "repeated" in second
    assert "idempotency_conflict" in complained(
        1, "publish", "chat-id", "other", "--id", "first", "--data", shared.data
    )


def test_a_folder_is_administered_alike_whether_a_service_holds_it_or_not(service: Service) -> None:
    service.start("--base-path", "/other")
    said("publish", CHAT, "hi", "--type", "fifo", "--data", service.data)
    over_the_socket = administer(service.data)
    assert service.stop() == 0
    assert administer(service.data) == over_the_socket


def administer(data: Path) -> list[object]:
    """What is said to the same commands, without the times."""
    said("grant", "alice", CHAT, "owner", "--data", data)
    said("grant", "bob", CHAT, "reader", "--data", data)
    listed = said("permissions", "--chat", CHAT, "--data", data)
    return [
        [line.split()[:4] for line in listed.splitlines()],
        said("permissions", "--user", "bob", "--chat", CHAT, "--json", "--data", data).count('"reader"'),
        said("revoke", "bob", CHAT, "--data", data),
        said("permissions", "--user", "bob", "--json", "--data", data),
        complained(1, "revoke", "nobody", CHAT, "--data", data),
        complained(1, "revoke", "alice", CHAT, "--data", data),
        said("history", CHAT, "--json", "--data", data),
        said("history", CHAT, "--from", "1", "--data", data),
        said("dlq", "list", "--data", data),
        complained(1, "dlq", "show", "1", "--data", data),
    ]


def test_on_a_folder_alone_nothing_is_published_and_nothing_followed(tmp_path: Path) -> None:
    for words in (("publish", CHAT, "hi"), ("tail", CHAT)):
        assert "needs a running service" in complained(1, *words, "--data", tmp_path)
    assert "not the folder of a service" in complained(1, "history", CHAT, "--data", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_service_left_is_no_service_but_a_holder_that_does_not_answer_is(service: Service) -> None:
    service.start()
    said("publish", CHAT, "hi", "--data", service.data)
    service.stop(signal.SIGKILL)
    assert (service.data / "admin.sock").exists()
    with (service.data / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert str(service.data) in complained(1, "history", CHAT, "--data", service.data)
    assert contents(said("history", CHAT, "--json", "--data", service.data)) == ["hi"]


@pytest.mark.slow
def test_a_publish_whose_answer_is_cut_off_says_that_its_fate_is_unknown(service: Service) -> None:
    service.start(TOCSIN_FAILPOINTS="publish.before_ack=kill")
    sentence = complained(1, "publish", CHAT, "hi", "--id", "mine", "--data", service.data)
    assert "unknown" in sentence
    assert "--id mine" in sentence
    assert contents(said("history", CHAT, "--json", "--data", service.data)) == ["hi"]


def test_a_restored_folder_begins_a_new_epoch_and_one_that_is_held_does_not(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for nothing in (data, tmp_path):
        assert "not the folder of a service" in complained(1, "restore", "--data", nothing)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tocsin.db").touch()
    assert "nothing was put back" in complained(1, "restore", "--data", tmp_path)
    with contextlib.closing(DataFolder(data)) as held:
        assert "held by another" in complained(1, "restore", "--data", data)
    first = said("restore", "--data", data)
    assert first != f"{held.epoch}\n"
    second = msgspec.json.decode(said("restore", "--json", TOCSIN_DATA=str(data)), type=dict[str, str])["epoch"]
    assert second not in (held.epoch, first.strip())
    with contextlib.closing(DataFolder(data)) as found:
        assert found.epoch == second


# -- dead letters ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_dead_letters_are_listed_shown_replayed_and_purged(service: Service) -> None:
    data = ("--data", service.data)
    service.start(**POISONED)
    for text in ("POISON 1", "fine", "POISON 2"):
        said("publish", CHAT, text, "--type", "fifo", *data)
    eventually(lambda: said("dlq", "list", "--json", *data).count("\n") == 2)
    (first, queue), (second, _) = (line.split()[:2] for line in said("dlq", "list", *data).splitlines()[1:])
    assert {
        name for line in service.log() if "message is dead" in line for name in re.findall(r"queue=(\w+)", line)
    } == {queue}
    shown = msgspec.json.decode(said("dlq", "show", first, "--json", *data), type=dict[str, object])
    assert (shown["chatId"], shown["sequenceNumber"], shown["attempts"]) == (CHAT, 1, 3)
    assert "POISON 1" in said("dlq", "show", first, *data)
    assert said("dlq", "list", "--queue", "MessageStorageQueue", "--json", *data) == ""
    assert said("dlq", "replay", first, *data) == "replayed 1\n"
    eventually(lambda: said("dlq", "list", "--json", *data).count("\n") == 2)
    service.stop()

    assert said("dlq", "purge", second, *data) == "purged 1\n"
    assert said("dlq", "replay", "--all", *data) == "replayed 1\n"
    assert said("dlq", "list", "--json", *data) == ""
    done = tocsin("dlq", "purge", first, *data)
    assert (done.returncode, done.stdout) == (1, "purged 0\n")
    assert contents(said("history", CHAT, "--json", "--from", "1", *data)) == ["POISON 1", "fine", "POISON 2"]


# -- tail --------------------------------------------------------------------------------------------------------------


class Tail:
    def __init__(self, *arguments: object, **extra: str) -> None:
        self._process = subprocess.Popen(
            [*PROGRAM, "tail", "--json", *map(str, arguments)],
            env=environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # what is not read here stays in the pipe
        )

    def read(self, count: int) -> list[object]:
        """The contents of the next `count` messages."""
        assert self._process.stdout is not None
        return contents(b"".join(self._process.stdout.readline() for _ in range(count)).decode())

    def stop_reading(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.stdout = None

    def interrupt(self) -> tuple[int, str, str]:
        """How it ended, and what else it said, on both streams."""
        self._process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> tuple[int, str, str]:
        printed, complaint = self._process.communicate(timeout=DEADLINE_S)
        return self._process.returncode, (printed or b"").decode(), complaint.decode()

    def close(self) -> None:
        with self._process:  # closes its pipes
            self._process.kill()


@pytest.mark.slow
def test_a_chat_is_followed_through_a_restart_without_a_hole_or_a_repeat(service: Service) -> None:
    data = ("--data", service.data)
    service.start()
    said("publish", CHAT, "one", "--type", "fifo", *data)
    with contextlib.closing(Tail(CHAT, "--from", 1, *data)) as tail:
        assert tail.read(1) == ["one"]
        said("publish", CHAT, "two", "--type", "fifo", *data)
        assert tail.read(1) == ["two"]
        service.stop(signal.SIGKILL)
        service.start()  # on another port
        for text in ("three", "four"):
            said("publish", CHAT, text, "--type", "fifo", *data)
        assert tail.read(2) == ["three", "four"]
        code, rest, complaint = tail.interrupt()
    assert (code, rest) == (-signal.SIGINT, "")
    assert "the connection was lost" in complaint
    assert "Traceback" not in complaint


@pytest.mark.slow
def test_what_a_live_connection_was_not_sent_is_read_from_history(shared: Service) -> None:
    chat, data = "chat-gap", ("--data", shared.data)
    said("publish", chat, "one", "--type", "fifo", *data)
    with contextlib.closing(Tail(chat, "--from", 1, *data)) as tail:
        assert tail.read(1) == ["one"]
        said("publish", chat, "POISON", "--type", "fifo", *data)
        said("publish", chat, "three", "--type", "fifo", *data)
        assert tail.read(2) == ["POISON", "three"]


def test_a_tail_ends_when_nobody_reads_it(shared: Service) -> None:
    chat, data = "chat-unread", ("--data", shared.data)
    for text in ("one", "two"):
        said("publish", chat, text, "--type", "fifo", *data)
    with contextlib.closing(Tail(chat, "--from", 1, *data)) as tail:
        assert tail.read(1) == ["one"]
        tail.stop_reading()
        said("publish", chat, "three", "--type", "fifo", *data)
        assert tail.end() == (0, "", "")


@pytest.mark.slow
def test_a_token_that_is_about_to_end_is_read_anew(shared: Service, tmp_path: Path) -> None:
    chat, pipe = "chat-renewed", tmp_path / "token"
    said("grant", "grace", chat, "reader", "--data", shared.data)
    ending, renewed = (
        said("token", "--data", shared.data, "--user", "grace", "--ttl", seconds) for seconds in ("50", "3600")
    )
    for path in (pipe, tmp_path / "next"):
        os.mkfifo(path)  # whoever writes waits until it is read
    with contextlib.closing(Tail(chat, "--url", shared.url, "--token-file", pipe)) as tail:
        pipe.write_text(ending)
        (tmp_path / "next").rename(pipe)
        pipe.write_text(renewed)
        said("publish", chat, "hi", "--data", shared.data)
        assert tail.read(1) == ["hi"]


def test_a_clients_tail_over_the_url_ends_when_its_role_is_taken(shared: Service) -> None:
    chat = "chat-revoked"
    said("grant", "frank", chat, "reader", "--data", shared.data)
    said("publish", chat, "one", "--type", "fifo", "--data", shared.data)
    frank = token_file(shared, "frank")
    with contextlib.closing(Tail(chat, "--from", 1, "--url", shared.url, "--token-file", frank)) as tail:
        assert tail.read(1) == ["one"]
        said("revoke", "frank", chat, "--data", shared.data)
        assert tail.end() == (1, "", f"tocsin: You may no longer read {chat}.\n")
    assert "not allowed" in complained(1, "tail", chat, "--url", shared.url, "--token-file", frank)


# -- examples, bench ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_printed_examples_run_as_they_are_pasted(service: Service, program: Callable[[str], Path]) -> None:
    program("curl")
    service.start("--examples")
    service.stop()
    text = service.output
    service.start("--port", service.url.rpartition(":")[2].partition("/")[0])  # the examples name it
    pasted = "\n".join(re.findall(r"^(?:[A-Z]+=\S+$|curl (?:.|\n)*?(?=\n(?:curl|\n)))", text, re.MULTILINE))
    done = subprocess.run(["sh", "-e"], input=pasted, capture_output=True, text=True, check=True)
    assert done.stdout.count('"messageId"') == 2
    assert '"carol"' in done.stdout
    assert '"fenceSequence":1' in done.stdout


def test_the_benchmarks_of_a_checkout_are_found() -> None:
    done = process("bench", "no-such-scenario")
    assert done.returncode == 2
    assert "latency" in done.stderr
