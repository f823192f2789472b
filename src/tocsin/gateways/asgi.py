"""What every HTTP door does alike: one request in, one answer out (ASGI 3).

    uvicorn, aws_events -> Shell -> the handler for path and method -> Answer, or Refusal -> Shell -> back

Rules:
- 404, then 405, then what the handler refuses, in docs/wire.md's order: 401, 413 and 415, 400, 403, 429, 409, 5xx.
- Nothing is done before the whole body is there: a handler reads it first (else http_connection.py answers 408).
- Every answer has X-Request-Id. What is no Refusal is a defect: 500, and of it only kind and place are logged.
- An Origin is allowed if it stands on the list, letter for letter; none does by default.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote

import msgspec

from tocsin import strict_json
from tocsin.errors import Refusal, invalid, no_number
from tocsin.gateways.defects import log_defect
from tocsin.gateways.handshake import refusal_body, refusal_headers, requested_id

T = TypeVar("T")
Header = tuple[bytes, bytes]
#: ASGI's own; a function on AWS has no starlette to take them from.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON: Final = b"application/json"
#: Statuses that say when to come back (docs/wire.md, Errors), and after how many seconds if the refusal does not say.
RETRIED: Final = frozenset({429, 503, 507})
RETRY_SECONDS: Final = 1
#: How long a browser may remember an answer to its preflight.
PREFLIGHT_SECONDS: Final = 600
ALLOWED_HEADERS: Final = b"Authorization, Content-Type, Idempotency-Key, X-Request-Id"
EXPOSED_HEADERS: Final = b"X-Request-Id, Retry-After"


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    status: int = 200
    body: bytes = b""
    media_type: bytes = JSON
    headers: tuple[Header, ...] = ()


def answer_json(value: object, status: int = 200) -> Answer:
    return Answer(status=status, body=msgspec.json.encode(value))


class Disconnected(Exception):
    """The client went away before its body had come; nobody is left to be answered."""


class Request:
    """One request. `rest` is what follows the path of a resource that is a tree; `version` is HTTP's, such as 1.1."""

    __slots__ = ("_headers", "_query", "_receive", "id", "path", "rest", "version")

    def __init__(self, scope: Scope, receive: Receive, new_id: Callable[[], str]) -> None:
        self._headers: Final[list[Header]] = scope["headers"]
        self._query: Final[bytes] = scope["query_string"]
        self._receive: Final = receive
        self.path: Final[str] = scope["path"]
        self.version: Final[str] = scope["http_version"]
        self.rest = ""
        self.id: Final = requested_id(self.header_values(b"x-request-id"), new_id)

    def header_values(self, name: bytes) -> list[str]:
        """All values of the header `name` (in lower case), one for each line."""
        return [value.decode("latin-1") for header, value in self._headers if header == name]

    def headers(self) -> dict[str, list[str]]:
        """All headers as the handshake has them: names in lower case, values without the blanks around them."""
        headers: dict[str, list[str]] = {}
        for name, value in self._headers:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1").strip(" 	"))
        return headers

    def query_pairs(self) -> list[tuple[str, str]]:
        """`a=1&b` as [("a", "1"), ("b", "")], percent-decoded as at the handshake: a `+` stays a `+`."""
        pairs = []
        for part in self._query.decode("latin-1").split("&"):
            name, _, value = part.partition("=")
            if part:
                pairs.append((unquote(name), unquote(value)) if "%" in part else (name, value))
        return pairs

    def refuse_query(self) -> None:
        """For a resource that has no parameters."""
        for name, _ in self.query_pairs():
            raise _unknown_parameter(name)

    async def body(self, limit: int) -> bytes:
        """All of it. Raises `message_too_large` as soon as there is, or is to come, more than `limit` bytes."""
        for length in self.header_values(b"content-length"):
            if int(length) > limit:  # the parser has seen that it is digits
                raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def json_body(self, limit: int) -> bytes:
        """As `body`, of JSON, which no Content-Type means too; else raises `unsupported_media_type`."""
        for media_type in self.header_values(b"content-type"):
            if media_type.partition(";")[0].strip(" \t").lower() != "application/json":
                raise Refusal("unsupported_media_type", "The body must be application/json.")
        for coding in self.header_values(b"content-encoding"):
            if coding.strip(" \t").lower() != "identity":
                raise Refusal("unsupported_media_type", "The body must not be compressed.")
        return await self.body(limit)


def _too_large(limit: int) -> Refusal:
    return Refusal("message_too_large", f"The body may have {limit} bytes.")


def _unknown_parameter(name: str) -> Refusal:
    shown = "".join(character if character.isprintable() else "?" for character in name[: strict_json.MAX_NAME])
    return invalid(shown, "This parameter is not known here.")


class Query(Generic[T]):
    """A query string -> a record, as strictly as a body: a JSON object is made of it, and decoded like one."""

    __slots__ = ("_bounds", "_decoder", "_names")

    def __init__(self, shape: type[T]) -> None:
        fields = msgspec.inspect.type_info(shape).fields  # type: ignore[attr-defined]  # of a Struct's info
        self._decoder: Final = msgspec.json.Decoder(shape)
        self._names: Final = frozenset(field.encode_name for field in fields)
        self._bounds: Final = {field.encode_name: found for field in fields if (found := _bounds(field.type))}

    def decode(self, request: Request) -> T:
        """Raises `invalid_argument`, with the parameter as its field, for one that is unknown, repeated or wrong."""
        values: dict[str, str | int] = {}
        for name, value in request.query_pairs():
            if name not in self._names:
                raise _unknown_parameter(name)
            if name in values:
                raise invalid(name, "This parameter may be given once.")
            bounds = self._bounds.get(name)
            values[name] = value if bounds is None else _whole_number(name, value, *bounds)
        return strict_json.decode(msgspec.json.encode(values), self._decoder)


def _bounds(kind: msgspec.inspect.Type) -> tuple[int, int] | None:
    """The least and the most of an integer, which must have both; None for another type."""
    if isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        return next(filter(None, map(_bounds, kind.types)), None)
    if not isinstance(kind, msgspec.inspect.IntType):
        return None
    assert kind.ge is not None, "a number that a stranger sends has bounds"
    assert kind.le is not None, "the same"
    return kind.ge, kind.le


def _whole_number(name: str, text: str, least: int, most: int) -> int:
    """Digits alone: no sign, no point, no other alphabet's."""
    if text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most:
        return int(text)
    raise no_number(name, least, most)


Handler = Callable[[Request], Awaitable[Answer]]


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """What a path has: its methods, and a header that says more about a refusal.

    With `is_tree` it stands for all that is below the path, which then ends with a slash.
    """

    methods: Mapping[str, Handler]
    is_tree: bool = False
    refusal_header: Callable[[Refusal], Header] | None = None

    @property
    def allowed(self) -> bytes:
        """The value of `Allow`: HEAD where GET is, OPTIONS everywhere."""
        head = ("HEAD",) if "GET" in self.methods else ()
        return ", ".join(sorted((*self.methods, *head, "OPTIONS"))).encode()


class Shell:
    """The ASGI application over a table of resources, by path."""

    def __init__(
        self,
        resources: Mapping[str, Resource],
        *,
        new_id: Callable[[], str],
        refused: Callable[[str], None],
        allowed_origins: frozenset[str] = frozenset(),
    ) -> None:
        """`refused` hears the code of each refusal that a handler raised."""
        self._resources: Final = {path: found for path, found in resources.items() if not found.is_tree}
        self._trees: Final = [(path, found) for path, found in resources.items() if found.is_tree]
        self._new_id: Final = new_id
        self._refused: Final = refused
        self._allowed_origins: Final = allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "http_connection.py lets nothing else through"
        method: str = scope["method"]
        request = Request(scope, receive, self._new_id)
        resource = self._find(request)
        try:
            answer = await self._answer(method, resource, request)
        except Refusal as refusal:
            self._refused(refusal.code)
            answer = refusal_answer(refusal, request.id, resource)
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - a defect is answered 500, like anywhere
            self._refused("internal")
            log_defect("request failed", error, request_id=request.id)
            defect = Refusal("internal", "The service failed; what became of the request is not known.")
            answer = refusal_answer(defect, request.id, resource)
        await send({"type": "http.response.start", "status": answer.status, "headers": self._headers(answer, request)})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})

    def _find(self, request: Request) -> Resource | None:
        found = self._resources.get(request.path)
        if found is None:
            for path, tree in self._trees:
                if request.path.startswith(path) and request.path != path:
                    request.rest = request.path.removeprefix(path)
                    return tree
        return found

    async def _answer(self, method: str, resource: Resource | None, request: Request) -> Answer:
        if resource is None:
            raise Refusal("not_found", "There is nothing here.")
        handler = resource.methods.get("GET" if method == "HEAD" else method)
        if handler is not None:
            return await handler(request)
        if method == "OPTIONS":
            return self._options(resource, request)
        raise Refusal("method_not_allowed", "This method is not allowed here; see Allow.")

    def _options(self, resource: Resource, request: Request) -> Answer:
        """What is allowed here; and to a browser that asks beforehand, what its page may do (Fetch, 4.8)."""
        headers: list[Header] = [(b"allow", resource.allowed)]
        if self._allowed_origin(request) and request.header_values(b"access-control-request-method"):
            headers += [
                (b"access-control-allow-methods", resource.allowed),
                (b"access-control-allow-headers", ALLOWED_HEADERS),
                (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
            ]
        return Answer(status=204, headers=tuple(headers))

    def _allowed_origin(self, request: Request) -> str | None:
        if not self._allowed_origins:
            return None
        origins = request.header_values(b"origin")
        return origins[0] if len(origins) == 1 and origins[0] in self._allowed_origins else None

    def _headers(self, answer: Answer, request: Request) -> list[Header]:
        headers = [(b"x-request-id", request.id.encode()), (b"cache-control", b"no-store"), *answer.headers]
        if answer.body:
            headers.append((b"content-type", answer.media_type))
        if answer.status != 204:  # which must not have one (RFC 9110 section 8.6)
            headers.append((b"content-length", b"%d" % len(answer.body)))
        if self._allowed_origins:
            headers.append((b"vary", b"Origin"))
            if origin := self._allowed_origin(request):
                headers.append((b"access-control-allow-origin", origin.encode("latin-1")))
                headers.append((b"access-control-expose-headers", EXPOSED_HEADERS))
        return headers


def refusal_answer(refusal: Refusal, request_id: str, resource: Resource | None = None) -> Answer:
    """The answer to a refused request."""
    if refusal.status in RETRIED and refusal.retry_after is None:
        refusal.retry_after = RETRY_SECONDS
    headers = [(name.lower().encode(), value.encode()) for name, value in refusal_headers(refusal)]
    if refusal.status == 405 and resource is not None:
        headers.append((b"allow", resource.allowed))
    if resource is not None and resource.refusal_header is not None:
        headers.append(resource.refusal_header(refusal))
    return Answer(status=refusal.status, body=refusal_body(refusal, request_id), headers=tuple(headers))
