"""One frame to one connection, through API Gateway's management API; and what its answer means.

    apigateway_clients, gaps -> turn -> post -> `sent` | `gone` | `busy` | `failed`

Rules:
- one post at a time to a connection, so that it hears in order what one function sends it; and none is given up while
  it is in flight, or it might arrive behind what is sent later;
- who is gone is told by the status 410, whatever the error is called;
- what was surely not sent (429, nobody there to talk to) is sent again for POST_SECONDS; what may have been sent is
  not: `failed` means that nobody knows;
- a frame that is too large for API Gateway is replaced by the gap that it leaves;
- anything else (we may not post) is the operator's: it is raised.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Literal
from weakref import WeakValueDictionary

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from tocsin.clients import gap_frame
from tocsin.clock import Clock
from tocsin.engines.aws.calls import Backoff, Calls, Unreachable, deadline, passing, until

if TYPE_CHECKING:
    from mypy_boto3_apigatewaymanagementapi import ApiGatewayManagementApiClient

log = logging.getLogger(__name__)

#: `busy`: surely not sent, there was no time for it.
Outcome = Literal["sent", "gone", "busy", "failed"]

#: For an answer, at most; and for repeating what was not sent.
POST_SECONDS: Final = 3.0

_GONE: Final = 410
_MEANS: Final[dict[int, Outcome | Literal["too large"]]] = {_GONE: "gone", 413: "too large", 429: "busy"}


class ApiGatewayPosts:
    def __init__(self, api: "Calls[ApiGatewayManagementApiClient]", *, clock: Clock, slots: int) -> None:
        """`slots`: so many posts are in flight at most."""
        self._api = api
        self._clock = clock
        self._slots = asyncio.Semaphore(slots)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, connection_id: str) -> asyncio.Lock:
        """Held while one posts to the connection."""
        turn = self._turns.get(connection_id)
        if turn is None:
            turn = self._turns[connection_id] = asyncio.Lock()
        return turn

    async def post(self, connection_id: str, frame: bytes) -> Outcome:
        """Begins none after the deadline of `until`."""
        backoff: Backoff | None = None
        while True:
            async with self._slots:
                now = self._clock.monotonic()
                if now >= deadline(self._clock):
                    return "busy"
                if backoff is None:
                    with until(now + POST_SECONDS):
                        backoff = self._api.backoff()
                outcome = await self._attempt(connection_id, frame)
            if outcome == "too large":
                return await self._post_gap(connection_id, frame)
            if outcome != "busy":
                return outcome
            try:
                await backoff.pause()
            except Unreachable:
                return "busy"

    async def _attempt(self, connection_id: str, frame: bytes) -> Outcome | Literal["too large"]:
        """`busy`: it may be sent again."""
        try:
            await self._api.once(lambda client: client.post_to_connection(ConnectionId=connection_id, Data=frame))
            return "sent"
        except ClientError as error:
            status = status_of(error)
            if status in _MEANS:
                return _MEANS[status]
            if status >= 500:
                return "failed"
            raise
        except BotoCoreError as error:
            nothing_done = passing(error)
            if nothing_done is None:
                raise
            return "busy" if nothing_done else "failed"

    async def end(self, connection_id: str) -> None:
        """Closes the connection. Raises Unreachable."""
        try:
            await self._api(lambda client: client.delete_connection(ConnectionId=connection_id))
        except ClientError as error:
            if status_of(error) != _GONE:
                raise

    async def _post_gap(self, connection_id: str, frame: bytes) -> Outcome:
        log.error("a frame is too large for API Gateway", extra={"bytes": len(frame)})
        try:
            lost = _frame.decode(frame)
        except msgspec.ValidationError:
            return "failed"  # it is no message, and nothing of ours
        number = lost.sequence_number
        gap = gap_frame(lost.payload.chat_id, number, number or 0, 0 if number else 1)
        return await self.post(connection_id, gap)


class _Payload(msgspec.Struct, rename="camel"):
    chat_id: str


class _Frame(msgspec.Struct, rename="camel"):
    payload: _Payload
    sequence_number: int | None = None


_frame: Final = msgspec.json.Decoder(_Frame)


def status_of(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
