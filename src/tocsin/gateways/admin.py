"""What `admin.sock` serves: the REST door to whom the folder belongs, and the dead letters.

    tocsin publish | dlq | ... --data DIR -> admin.sock (mode 0600) -> AdminApi -> http.py's handlers, Bus

Without a base path, beside all that http.py has:

    GET  /dlq?queue&limit   {"letters":[…]}       POST /dlq/replay  {"letterIds":[…]} or {"all":true} -> {"count"}
    GET  /dlq/{letterId}    the letter            POST /dlq/purge   the same
    GET  /depths            {"queues":[…]}        GET  /address     {"url": where the public door is}

Rule: whoever can open the socket is the operator: no token, every scope, the user `admin`. A WebSocket is opened at the
public door, with a ticket from here.
"""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.types import Receive, Scope, Send

from tocsin import strict_json
from tocsin.bus import Bus, DeadLetter
from tocsin.errors import Refusal, invalid
from tocsin.gateways.asgi import Answer, Query, Request, Resource, Shell, answer_json
from tocsin.gateways.http import HttpApi
from tocsin.identity import SCOPES, Identity
from tocsin.message import MAX_MESSAGE_BYTES, rfc3339
from tocsin.service import Service
from tocsin.topology import QUEUES, Queue

#: A folder's owner does not expire: the end of the year 9999.
ADMIN: Final = Identity(user_id="admin", scopes=SCOPES, expires_at=253_402_300_799_000)
MAX_LETTERS: Final = 1_000


class LettersQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`queue` by its own name, or by its dead-letter queue's."""

    queue: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LETTERS)] = 100


LetterId = Annotated[str, Meta(max_length=64)]


class LetterChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    letter_ids: Annotated[list[LetterId], Meta(min_length=1, max_length=MAX_LETTERS)] | None = None
    all: bool = False


class Letter(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A dead letter; `body` is the message as history has it."""

    letter_id: str
    queue: str
    message_id: str
    chat_id: str
    sequence_number: int | None
    reason: str
    attempts: int
    first_failed_at: str
    last_failed_at: str
    body: msgspec.Raw


_letters_query: Final = Query(LettersQuery)
_choice: Final = msgspec.json.Decoder(LetterChoice)


class AdminApi:
    def __init__(self, service: Service, api: HttpApi, *, url: str, new_id: Callable[[], str]) -> None:
        """`url` is where the public door is, base path included."""
        self._bus: Final[Bus] = service.engine.bus
        self._url: Final = url
        self._shell: Final = Shell(
            {
                **api.resources("", _identify),
                "/dlq": Resource(methods={"GET": self._list_letters}),
                "/dlq/": Resource(methods={"GET": self._show_letter}, is_tree=True),
                "/dlq/replay": Resource(methods={"POST": self._replay}),
                "/dlq/purge": Resource(methods={"POST": self._purge}),
                "/depths": Resource(methods={"GET": self._list_depths}),
                "/address": Resource(methods={"GET": self._tell_address}),
            },
            new_id=new_id,
            refused=lambda code: service.engine.metrics.count("refusals", label=code),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._shell(scope, receive, send)

    async def _list_letters(self, request: Request) -> Answer:
        query = _letters_query.decode(request)
        queue = None if query.queue is None else _queue(query.queue)
        letters = await self._bus.dead_letters(queue, limit=query.limit)
        return answer_json({"letters": [_letter(letter) for letter in letters]})

    async def _show_letter(self, request: Request) -> Answer:
        request.refuse_query()
        for letter in await self._bus.dead_letters(letter_id=request.rest):
            return answer_json(_letter(letter))
        raise Refusal("not_found", "There is no such dead letter.")

    async def _replay(self, request: Request) -> Answer:
        return answer_json({"count": await self._bus.replay(await _read_choice(request))})

    async def _purge(self, request: Request) -> Answer:
        return answer_json({"count": await self._bus.purge(await _read_choice(request))})

    async def _list_depths(self, request: Request) -> Answer:
        request.refuse_query()
        return answer_json({"queues": await self._bus.depths()})

    async def _tell_address(self, request: Request) -> Answer:
        request.refuse_query()
        return answer_json({"url": self._url})


async def _identify(_request: Request) -> Identity:
    return ADMIN


async def _read_choice(request: Request) -> list[str] | None:
    """Which letters: these, or None, all; nothing destructive is done to what was not named."""
    body = await request.json_body(MAX_MESSAGE_BYTES)
    request.refuse_query()
    choice = strict_json.decode(body, _choice)
    if choice.all == (choice.letter_ids is not None):
        raise invalid("letterIds", 'Either {"letterIds":[…]} or {"all":true}.')
    return choice.letter_ids


def _queue(name: str) -> Queue:
    for queue in QUEUES:
        if name in (queue.name, queue.dead_letters):
            return queue
    raise invalid("queue", f"It is one of {', '.join(queue.name for queue in QUEUES)}.")


def _letter(letter: DeadLetter) -> Letter:
    return Letter(
        letter_id=letter.letter_id,
        queue=letter.queue,
        message_id=letter.message_id,
        chat_id=letter.chat_id,
        sequence_number=letter.sequence_number,
        reason=letter.reason,
        attempts=letter.attempts,
        first_failed_at=rfc3339(letter.first_failed_at).decode(),
        last_failed_at=rfc3339(letter.last_failed_at).decode(),
        body=letter.body,
    )
