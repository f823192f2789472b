"""`tocsin tail`: follows a chat through every drop, without a hole.

    connect with lastSequence and epoch -> frames -> messages on stdout, all else that matters on stderr
    a drop -> a jittered pause that grows -> connect;  a `gap` -> the numbers that it names, from history

Rules:
- the last number and the epoch are all that a new connection needs; a number moves on when its message is printed;
- what another try would not change ends it: 4400, 4403, a refused token, `revoked`; so does a first try that fails.
"""

import signal
import time
from collections.abc import Generator
from contextlib import closing
from random import SystemRandom
from typing import Annotated, Final

import msgspec
import typer

from tocsin.cli import values
from tocsin.cli.client import Wanted
from tocsin.cli.failure import Failure, Refused, Unreachable, beyond_repeating
from tocsin.cli.printing import AsJson, print_message, say
from tocsin.cli.rest_client import Problem, RestClient, reason, seconds
from tocsin.cli.target import Data, TokenFile, Url, running
from tocsin.errors import CloseCode

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
#: However long a service says that one should wait.
LONGEST_WAIT_S: Final = 300.0
#: A frame is a message as history gives it, and this.
_FRAME: Final = b'{"type":"message",'


class Frame(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of any frame what matters here (docs/wire.md, WebSocket)."""

    type: str
    sequence_number: int | None = None
    head_sequence: int = 0
    epoch: str = ""
    recovered: bool = True
    first: int | None = msgspec.field(default=None, name="from")
    to: int = 0
    unnumbered: int = 0
    code: str = ""
    message: str = ""


_frame: Final = msgspec.json.Decoder(Frame)


class Dropped(Exception):
    """The connection ended, or did not come about; another may do. `wait` in seconds, as the service asks."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait: Final = min(wait, LONGEST_WAIT_S)


def tail(
    chat: Annotated[str, typer.Argument(metavar="CHAT", parser=values.chat_id)],
    first: Annotated[
        int | None,
        typer.Option(
            "--from",
            help="From this number on; without it, what comes from now on.",
            parser=values.number,
            metavar="NUMBER",
        ),
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Print the messages of CHAT as they come, until Ctrl-C."""
    # There is nothing to tidy up, and an interrupt inside the library's locks can leave its close waiting for itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    follower = Follower(running(url, token_file, data), chat, first, as_json=as_json)
    random = SystemRandom()
    while True:
        try:
            follower.follow()
        except Dropped as drop:
            if not follower.has_begun:
                raise Failure(f"{chat} cannot be followed: {drop}.") from drop
            pause = max(drop.wait, random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**follower.tries)))
            say(f"the connection was lost: {drop}; the next try is in {pause:.1f} s")
            time.sleep(pause)


class Follower:
    """One chat, over as many connections as it takes."""

    def __init__(self, client: RestClient, chat_id: str, first: int | None, *, as_json: bool) -> None:
        self._client: Final = client
        self._chat_id: Final = chat_id
        self._as_json: Final = as_json
        self._last = None if first is None else max(first - 1, 0)
        self._epoch: str | None = None
        #: Connections tried since the last that did.
        self.tries = 0

    @property
    def has_begun(self) -> bool:
        return self._epoch is not None

    def follow(self) -> None:
        """Prints what comes over one connection. Ends with `Dropped`, or with a `Failure`."""
        self.tries += 1
        try:
            url, headers = self._client.stream(
                {"chatId": self._chat_id, "lastSequence": self._last, "epoch": self._epoch}
            )
            with closing(_frames(url, headers)) as frames:
                text = next(frames)
                while True:
                    text = frames.send(self._take(text, headers))
        except Unreachable as error:
            raise Dropped(error.message.rstrip(".")) from error
        except Refused as error:
            if beyond_repeating(error.code):
                raise
            raise Dropped(error.message, error.retry_after or 0) from error

    def _take(self, text: bytes, headers: dict[str, str]) -> bytes | None:
        """What to answer, if anything."""
        frame = _frame.decode(text)
        match frame.type:
            case "message":
                self._print(text.replace(_FRAME, b"{", 1), frame.sequence_number)
            case "subscribed":
                self._settle(frame)
            case "gap":
                self._fill(frame)
            case "revoked":
                raise Failure(f"You may no longer read {self._chat_id}.")
            case "error":
                raise Refused(frame.code, frame.message)
            case "tokenExpiring" if headers and (renewed := self._client.headers()) != headers:
                token = renewed["Authorization"].removeprefix("Bearer ")
                return msgspec.json.encode({"action": "refreshToken", "token": token})
        return None

    def _print(self, body: bytes, number: int | None) -> None:
        """Not what was printed before: some engines deliver a number twice."""
        if number is None or self._last is None or number > self._last:
            print_message(body, as_json=self._as_json)
            self._last = number if number is not None else self._last

    def _settle(self, frame: Frame) -> None:
        head = frame.head_sequence
        if self._last is not None and self._last > head and self._epoch is None:
            say(f"{self._chat_id} has numbers up to {head} so far; what comes now is printed")
        elif self._epoch not in (None, frame.epoch) or (self._last or 0) > head:
            say(f"the service was put back to an earlier state; in {self._chat_id} its numbers go on after {head}")
        self._last, self._epoch, self.tries = head, frame.epoch, 0

    def _fill(self, frame: Frame) -> None:
        """What this connection was not sent stands in history, unless it has expired or has no number."""
        if frame.unnumbered:
            say(f"{frame.unnumbered} messages without a number were not sent: this reader is too slow")
        if frame.first is not None:
            missing = frame.to - frame.first + 1
            wanted = Wanted(chat_id=self._chat_id, first=frame.first, last=frame.to)
            for body in self._client.history(wanted):
                self._print(body, _number(body))
                missing -= 1
            if missing:
                say(f"{missing} of the numbers {frame.first} to {frame.to} are no longer there")
            self._last = max(self._last or 0, frame.to)


class _Numbered(msgspec.Struct, rename="camel"):
    sequence_number: int | None = None


def _number(body: bytes) -> int | None:
    return msgspec.json.decode(body, type=_Numbered).sequence_number


def _frames(url: str, headers: dict[str, str]) -> Generator[bytes, bytes | None]:
    """The texts of one connection; what the generator is sent, it sends. It ends with `Dropped`, or with a `Failure`.

    The network's errors are told apart here from those of stdout, where a closed pipe is the end.
    """
    # Imported late: it takes as long as all the rest of the command line.
    from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
    from websockets.sync.client import connect

    try:
        with connect(url, additional_headers=headers, proxy=None, compression=None, close_timeout=1) as connection:
            while True:
                answer = yield connection.recv(decode=False)
                if answer is not None:
                    connection.send(answer, text=True)
    except ConnectionClosed as closed:
        raise _after_close(
            closed.rcvd.code if closed.rcvd else None, closed.rcvd.reason if closed.rcvd else ""
        ) from None
    except InvalidStatus as refused:
        answered = refused.response
        raise _after_refusal(answered.status_code, answered.body, answered.headers.get("Retry-After")) from None
    except (OSError, WebSocketException) as error:
        raise Dropped(reason(error)) from error


def _after_close(code: int | None, why: str) -> Dropped | Failure:
    """docs/wire.md, Close codes. 4401 comes when the token has ended: the next connection reads the file anew."""
    if code in (CloseCode.BAD_REQUEST, CloseCode.FORBIDDEN):
        return Failure(f"The service has closed the connection for good: {code} {why}".rstrip(" .") + ".")
    told = why.removeprefix("retryAfter=")
    wait = int(told) / 1000 if told != why and told.isascii() and told.isdigit() else 0.0
    return Dropped("without a word" if code is None else f"{code} {why}".rstrip(" ."), wait)


def _after_refusal(status: int, body: bytes | bytearray, retry_after: str | None) -> Dropped | Failure:
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except msgspec.DecodeError:
        return Dropped(f"status {status}, and not as a Tocsin service says it")
    if beyond_repeating(problem.code):
        return Refused(problem.code, problem.message, field=problem.field)
    return Dropped(f"{problem.message} ({problem.code})", seconds(retry_after) or 0)
