"""The log that is being written, and the HTTP door. The long-lived clients are in publishers.py and readers.py.

Rules: what is sent is written with the time before it, what comes with the time after it. A payload is compared by its
very bytes, never decoded. A definite refusal is told from an unknown outcome as docs/wire.md says.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Self

import httpx
import msgspec
from websockets.asyncio.client import connect

from tests.guarantees import records
from tests.guarantees.drafts import PRIVATE, Draft
from tests.guarantees.records import Acked, DeadLetter, DeadLetterRead, HistoryRead, Log, Publish, Refused, Row, Unknown
from tests.guarantees.server import BACK_END, Service, run_cli

#: Codes of 500 and 503; every other code is a definite refusal.
UNKNOWN_CODES: Final = frozenset({"internal", "unavailable"})
now = time.monotonic


class Frame(msgspec.Struct, rename="camel"):
    """Any frame of the server; what its type does not have keeps the default."""

    type: str
    message_id: str = ""
    timestamp: str = ""
    sequence_number: int | None = None
    payload: msgspec.Raw = msgspec.Raw(b"")
    request_id: str | None = None
    duplicate: bool = False
    chat_id: str = ""
    head_sequence: int = 0
    oldest_sequence: int = 1
    epoch: str = ""
    recovered: bool = True
    first: int | None = msgspec.field(default=None, name="from")
    last: int | None = msgspec.field(default=None, name="to")
    unnumbered: int = 0
    code: str = ""


class _Payload(msgspec.Struct, rename="camel"):
    chat_id: str


class _Row(msgspec.Struct, rename="camel"):
    message_id: str
    timestamp: str
    payload: msgspec.Raw
    sequence_number: int | None = None


class _Page(msgspec.Struct, rename="camel"):
    messages: list[_Row]
    next_start_key: str | None
    head_sequence: int
    oldest_sequence: int
    epoch: str


class _Entry(msgspec.Struct, rename="camel"):
    """An answer to a publish: of the REST door, or of one entry of a batch."""

    message_id: str = ""
    timestamp: str = ""
    duplicate: bool = False
    code: str = ""
    error: dict[str, str] = {}


class _Batch(msgspec.Struct):
    results: list[_Entry]


read_frame = msgspec.json.Decoder(Frame).decode
_read_payload = msgspec.json.Decoder(_Payload).decode
_read_page = msgspec.json.Decoder(_Page).decode


def chat_of(frame: Frame) -> str:
    return _read_payload(frame.payload).chat_id if frame.type == "message" else frame.chat_id


def open_socket(service: Service, user: str, query: str = "", **options: object) -> connect:
    """The token goes in the header; pings, queues and compression are left out of the picture."""
    defaults: dict[str, object] = {"compression": None, "ping_interval": None, "max_queue": None, "proxy": None}
    defaults |= {"close_timeout": 1, "open_timeout": 5, "max_size": 1 << 20}
    defaults["additional_headers"] = {"Authorization": f"Bearer {service.tokens[user]}"}
    return connect(service.socket_url + query, **defaults | options)  # type: ignore[arg-type]  # of many types


class Recorder:
    """The log that is being written, and the clients' HTTP door."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.log = Log(secrets={PRIVATE, *service.tokens.values()})
        self._stirred = asyncio.Event()
        self._http = httpx.AsyncClient(timeout=15, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._http.aclose()

    def stir(self) -> None:
        """Something was written: whoever waits may look again."""
        self._stirred.set()

    async def until(self, come: Callable[[], object], what: str, deadline: float = 10.0) -> None:
        """Looks after each thing that is written. `AssertionError` names `what` did not come."""
        try:
            async with asyncio.timeout(deadline):
                while not come():
                    self._stirred.clear()
                    await self._stirred.wait()
        except TimeoutError:
            raise AssertionError(f"{what} did not come in {deadline} s:\n{self.service.output[-2000:]}") from None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        user: str = BACK_END,
        body: bytes | None = None,
        params: dict[str, str | int] | None = None,
    ) -> httpx.Response | None:
        """None: no answer, so what became of it is not known."""
        headers = {"Authorization": f"Bearer {self.service.tokens[user]}", "Content-Type": "application/json"}
        try:
            url = self.service.http_url + path
            return await self._http.request(method, url, content=body, params=params, headers=headers)
        except httpx.TransportError:
            return None

    async def insist(self, method: str, path: str, *, deadline: float = 15.0, **request: object) -> httpx.Response:
        """Repeats what may be repeated until the answer is no 5xx: a service may be starting again meanwhile."""
        async with asyncio.timeout(deadline):
            while True:
                answer = await self.ask(method, path, **request)  # type: ignore[arg-type]  # passed on as it is
                if answer is not None and answer.status_code < 500:
                    return answer
                await asyncio.sleep(0.02)

    async def grant(self, user: str, chat: str, role: str) -> None:
        body = json.dumps({"userId": user, "chatId": chat, "role": role}).encode()
        answer = await self.insist("POST", "/permissions", body=body)
        assert answer.status_code == 200, answer.text

    # -------------------------------------------------------------------------------------------- publishing

    def wrote(
        self, user: str, draft: Draft, sent_at: float, answer: Acked | Refused | Unknown, connection: str | None = None
    ) -> Publish:
        publish = Publish(
            sender=user,
            chat=draft.chat,
            connection=connection,
            numbered=draft.numbered,
            dedupe_id=draft.dedupe_id,
            digest=draft.digest,
            sent_at=sent_at,
            answered_at=now(),
            answer=answer,
        )
        self.log.publishes.append(publish)
        if draft.is_poison:
            self.log.poison.add(draft.digest)
        self.stir()
        return publish

    async def publish(self, draft: Draft, user: str = BACK_END) -> Publish:
        sent_at = now()
        response = await self.ask("POST", "/publish", user=user, body=draft.body())
        return self.wrote(user, draft, sent_at, _judge(response))

    async def publish_batch(self, batch: Sequence[Draft], user: str = BACK_END) -> list[Publish]:
        """Its order is promised like a connection's."""
        sent_at = now()
        body = b'{"messages":[%b]}' % b",".join(draft.body() for draft in batch)
        response = await self.ask("POST", "/publish/batch", user=user, body=body)
        answers = [_judge(response)] * len(batch)
        if response is not None and response.status_code == 200:
            answers = [_judge_entry(entry) for entry in msgspec.json.decode(response.content, type=_Batch).results]
        name = f"batch of {user} at {sent_at}"
        return [self.wrote(user, draft, sent_at, answer, name) for draft, answer in zip(batch, answers, strict=True)]

    # -------------------------------------------------------------------------------------------- history

    async def read_history(
        self,
        chat: str,
        by: Literal["number", "time"] = "number",
        *,
        user: str = BACK_END,
        first: int | None = None,
        last: int | None = None,
    ) -> HistoryRead | None:
        """All pages. None, and nothing written: no answer, or a 5xx."""
        params: dict[str, str | int] = {"chatId": chat, "limit": 1000}
        if by == "number":
            params["fromSequence"] = first or 1
            if last is not None:
                params["toSequence"] = last
        asked_at, wall_at = now(), time.time()
        pages: list[_Page] = []
        refused = None
        while not pages or pages[-1].next_start_key is not None:
            if pages:
                params["startKey"] = pages[-1].next_start_key or ""
            response = await self.ask("GET", "/messages", user=user, params=params)
            if response is None or response.status_code >= 500:
                return None
            if response.status_code != 200:
                refused = Refused(status=response.status_code, code=response.json()["code"])
                break
            pages.append(_read_page(response.content))
        read = HistoryRead(
            reader=user, chat=chat, asked_at=asked_at, answered_at=now(), wall_at=wall_at, by=by, first=first, last=last
        )
        if refused is not None:
            read = msgspec.structs.replace(read, refused=refused)
        else:
            read = msgspec.structs.replace(
                read,
                rows=tuple(_row(each) for page in pages for each in page.messages),
                head=pages[0].head_sequence,
                oldest=pages[0].oldest_sequence,
                oldest_after=pages[-1].oldest_sequence,
                epoch=pages[0].epoch,
            )
        self.log.reads.append(read)
        self.stir()
        return read

    async def read_whole(self, chat: str, deadline: float = 15.0) -> HistoryRead:
        """By time and by number, until both are answered; returns the one by number."""
        async with asyncio.timeout(deadline):
            while True:
                if await self.read_history(chat, "time") and (read := await self.read_history(chat)):
                    return read
                await asyncio.sleep(0.02)

    async def read_dead_letters(self) -> list[dict[str, Any]]:
        """As an operator lists them."""
        asked_at = now()
        printed = await asyncio.to_thread(run_cli, "dlq", "list", "--data", str(self.service.data), "--json")
        letters: list[dict[str, Any]] = [json.loads(line) for line in printed.splitlines()]
        listed = tuple(DeadLetter(message_id=each["messageId"], attempts=each["attempts"]) for each in letters)
        self.log.dead_letters.append(DeadLetterRead(asked_at=asked_at, letters=listed))
        return letters


def _row(row: _Row) -> Row:
    return Row(
        number=row.sequence_number,
        message_id=row.message_id,
        timestamp=row.timestamp,
        digest=records.digest(bytes(row.payload)),
    )


def _judge(response: httpx.Response | None) -> Acked | Refused | Unknown:
    if response is None:
        return Unknown(reason="no answer")
    status = response.status_code
    if 400 <= status < 500 or status == 507:
        return Refused(status=status, code=str(response.json()["code"]))
    if status != 202:
        return Unknown(reason=f"{status}")
    return _judge_entry(msgspec.json.decode(response.content, type=_Entry))


def _judge_entry(entry: _Entry) -> Acked | Refused | Unknown:
    if not entry.error:
        return Acked(message_id=entry.message_id, timestamp=entry.timestamp, duplicate=entry.duplicate)
    return judge_code(entry.error["code"])


def judge_code(code: str) -> Refused | Unknown:
    """Of an `error` frame or a batch's entry, which have no status."""
    return Unknown(reason=code) if code in UNKNOWN_CODES else Refused(status=0, code=code)
