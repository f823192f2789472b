"""A client of the REST API of a running service (docs/wire.md, REST): over its URL, or over its folder's admin.sock.

    method -> one request on a connection of its own -> the answer decoded, or Refused, or Unreachable

Rules:
- a redirect is not followed: a token goes nowhere but where a person has sent it;
- a repeated request is the caller's decision: here nothing is sent twice.
"""

import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from tocsin.cli.client import LARGEST_PAGE, Grant, Letter, Revocation, Wanted
from tocsin.cli.credentials import Token
from tocsin.cli.failure import Refused, Unreachable

T = TypeVar("T")

TIMEOUT_S: Final = 30.0

Parameters = Mapping[str, str | int | None]


class Receipt(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    message_id: str
    timestamp: str
    duplicate: bool


class _History(msgspec.Struct, rename="camel"):
    messages: list[msgspec.Raw]
    next_start_key: str | None


class _Permissions(msgspec.Struct, rename="camel"):
    permissions: list[Grant]
    next_start_key: str | None


class _Letters(msgspec.Struct, rename="camel"):
    letters: list[Letter]


class _Count(msgspec.Struct):
    count: int


class _Ticket(msgspec.Struct):
    ticket: str


class _Address(msgspec.Struct):
    url: str


class Problem(msgspec.Struct, frozen=True):
    """A refusal, as every door says it (docs/wire.md, Errors)."""

    code: str
    message: str
    field: str | None = None


class RestClient(ABC):
    """`Client`, and what only a running service can do."""

    @abstractmethod
    def connect(self) -> HTTPConnection:
        """Not opened yet."""

    @abstractmethod
    def headers(self) -> dict[str, str]:
        """The credential, if one is needed."""

    @abstractmethod
    def base_path(self) -> str: ...

    @abstractmethod
    def stream(self, parameters: Parameters) -> tuple[str, dict[str, str]]:
        """The address of a WebSocket and the headers to open it with, good for one attempt."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the service is, as a person said it."""

    # -- the API -------------------------------------------------------------------------------------------------------

    def publish(self, publication: Mapping[str, object]) -> Receipt:
        """`publication` is the publish object."""
        return self.ask("POST", "/publish", Receipt, body=publication)

    def history(self, wanted: Wanted) -> Iterator[bytes]:
        key = None
        while True:
            parameters: dict[str, str | int | None] = {"chatId": wanted.chat_id, "limit": wanted.page, "startKey": key}
            if wanted.by_number:
                parameters |= {"fromSequence": wanted.first, "toSequence": wanted.last}
            else:
                parameters |= {"fromTimestamp": wanted.since, "toTimestamp": wanted.until}
                parameters["order"] = "desc" if wanted.newest_first else "asc"
            page = self.ask("GET", "/messages", _History, parameters)
            yield from map(bytes, page.messages)
            if (key := page.next_start_key) is None:
                return

    def grant(self, user_id: str, chat_id: str, role: str) -> Grant:
        return self.ask("POST", "/permissions", Grant, body={"userId": user_id, "chatId": chat_id, "role": role})

    def revoke(self, user_id: str, chat_id: str) -> Revocation:
        return self.ask("DELETE", "/permissions", Revocation, {"userId": user_id, "chatId": chat_id})

    def permissions(self, user_id: str | None, chat_id: str | None) -> Iterator[Grant]:
        key = None
        while True:
            parameters = {"userId": user_id, "chatId": chat_id, "limit": LARGEST_PAGE, "startKey": key}
            page = self.ask("GET", "/permissions", _Permissions, parameters)
            yield from page.permissions
            if (key := page.next_start_key) is None:
                return

    # -- one request ---------------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        shape: type[T],
        parameters: Parameters | None = None,
        *,
        body: Mapping[str, object] | None = None,
    ) -> T:
        """A parameter that is None is left out."""
        target = self.base_path() + path
        if query := query_string(parameters or {}):
            target += f"?{query}"
        headers = self.headers() | {"Accept": "application/json", "User-Agent": "tocsin"}
        sent = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            sent = msgspec.json.encode(body)
        status, answer, retry_after = self._exchange(method, target, sent, headers)
        if status in (200, 202):
            try:
                return msgspec.json.decode(answer, type=shape)
            except msgspec.DecodeError:
                raise self._stranger(status) from None
        try:
            problem = msgspec.json.decode(answer, type=Problem)
        except msgspec.DecodeError:
            raise self._stranger(status) from None
        raise Refused(problem.code, problem.message, field=problem.field, retry_after=seconds(retry_after))

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, str | None]:
        connection = self.connect()
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.getheader("Retry-After")
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{self.place} does not answer: {reason(error)}.") from None
        finally:
            connection.close()

    def _stranger(self, status: int) -> Unreachable:
        return Unreachable(
            f"{self.place} answers with status {status}, but not as a Tocsin service does; is it the one?"
        )


class UrlClient(RestClient):
    """A service at a URL, base path included, with a token."""

    def __init__(self, url: str, token: Token) -> None:
        self._parts: Final = urlsplit(url)
        self._token: Final = token

    def connect(self) -> HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return HTTPSConnection(host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())
        return HTTPConnection(host, port, timeout=TIMEOUT_S)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token.read()}"}

    def base_path(self) -> str:
        return self._parts.path

    def stream(self, parameters: Parameters) -> tuple[str, dict[str, str]]:
        return stream_url(self._parts.geturl(), parameters), self.headers()

    @property
    def place(self) -> str:
        return self._parts.geturl()


class AdminClient(RestClient):
    """The service that holds a folder, over the folder's socket: its owner needs no token, and may do everything."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path

    def connect(self) -> HTTPConnection:
        return UnixConnection(self._path)

    def headers(self) -> dict[str, str]:
        return {}

    def base_path(self) -> str:
        return ""

    def stream(self, parameters: Parameters) -> tuple[str, dict[str, str]]:
        url = self.ask("GET", "/address", _Address).url
        ticket = self.ask("POST", "/tickets", _Ticket, body={}).ticket
        return stream_url(url, {**parameters, "ticket": ticket}), {}

    @property
    def place(self) -> str:
        return str(self._path)

    def dead_letters(self, queue: str | None, limit: int) -> Sequence[Letter]:
        return self.ask("GET", "/dlq", _Letters, {"queue": queue, "limit": limit}).letters

    def dead_letter(self, letter_id: str) -> Letter:
        return self.ask("GET", f"/dlq/{quote(letter_id, safe='')}", Letter)

    def replay(self, letter_ids: Sequence[str] | None) -> int:
        return self.ask("POST", "/dlq/replay", _Count, body=_named(letter_ids)).count

    def purge(self, letter_ids: Sequence[str] | None) -> int:
        return self.ask("POST", "/dlq/purge", _Count, body=_named(letter_ids)).count


class UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def _named(letter_ids: Sequence[str] | None) -> Mapping[str, object]:
    return {"all": True} if letter_ids is None else {"letterIds": letter_ids}


def query_string(parameters: Parameters) -> str:
    """A space as %20 and a plus as %2B: the service takes a + for what it is."""
    return urlencode({name: value for name, value in parameters.items() if value is not None}, quote_via=quote)


def stream_url(url: str, parameters: Parameters) -> str:
    """http -> ws, https -> wss."""
    return f"ws{url.removeprefix('http')}?{query_string(parameters)}"


def seconds(retry_after: str | None) -> float | None:
    """The value of the header, as a Tocsin service writes it."""
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None


def reason(error: Exception) -> str:
    """In a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
