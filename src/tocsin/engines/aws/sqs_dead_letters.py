"""Dead letters on SQS: written by the consumer itself, and what an operator does with them.

    SqsQueue -> send -> the queue's DLQ -> list_letters, replay, purge <- Bus <- `tocsin dlq`

Rules:
- each has a group of its own, so that none hides another;
- to look at a letter is to receive it and to let it go: others do not see it meanwhile (HIDDEN), and who dies while
  looking has hidden it for as long;
- a letter is known by its queue, its message and the replay that brought it, so copies of one are one;
- a replay puts the message into its queue under a new transport id: it keeps its messageId, its row and its number.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tocsin.bus import DeadLetter
from tocsin.clock import Clock
from tocsin.engines.aws import bus_format
from tocsin.engines.aws.bus_format import Carried, UnknownFormat
from tocsin.engines.aws.calls import Calls
from tocsin.engines.aws.message_rows import MessageRows
from tocsin.topology import Queue

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: For how long a letter that is looked at is hidden from others, in seconds.
HIDDEN: Final = 30
#: So many letters are looked through for a list; what is meant to reach all goes through all.
MOST_LISTED: Final = 1_000
_BATCH: Final = 10
_COUNTS: "Final[list[QueueAttributeNameType]]" = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]
REDRIVEN: Final = "redriven: its queue handed it over too often, and it never came to a try that was counted"


class Letter(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """As it lies in the dead-letter queue. `text` is what lay in the queue, if it could not be read; otherwise
    `carried`."""

    letter_id: str
    reason: str
    attempts: int
    first_failed_at: int
    last_failed_at: int
    carried: msgspec.Raw = msgspec.Raw()
    text: str = ""


class _Held(msgspec.Struct, frozen=True, kw_only=True):
    """A letter that is hidden for us just now. `carried` is None if nobody can read it."""

    transport_id: str
    receipt: str
    letter: Letter
    text: str
    carried: Carried | None


def letter_id(queue: Queue, message_id: str, replay: str | None) -> str:
    return ":".join([queue.name, message_id, *([replay] if replay else [])])


class SqsDeadLetters:
    """One queue's."""

    def __init__(
        self,
        queue: Queue,
        *,
        sqs: "Calls[SQSClient]",
        queue_url: str,
        letters_url: str,
        rows: MessageRows,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._queue = queue
        self._sqs = sqs
        self._queue_url = queue_url
        self._letters_url = letters_url
        self._rows = rows
        self._clock = clock
        self._new_id = new_id

    async def send(self, text: str, carried: Carried | None, letter: Letter) -> None:
        """`text` is the message as it lay in its queue."""
        if carried is None:
            letter = msgspec.structs.replace(letter, text=text)
        else:
            letter = msgspec.structs.replace(letter, carried=msgspec.Raw(bus_format.unpack(text)))
        message_id = letter.letter_id.split(":")[1]
        await self._send(
            self._letters_url,
            bus_format.pack(msgspec.json.encode(letter)),
            group=message_id,
            transport_id=letter.letter_id,
            chat_id="" if carried is None else carried.message.chat_id,
        )

    async def list_letters(self, wanted: str | None, limit: int) -> list[DeadLetter]:
        """Up to `limit`, in the order in which they first failed; `wanted` names one."""
        found: dict[str, _Held] = {}
        held: list[_Held] = []
        async for batch in self._look():
            held += batch
            found |= {one.letter.letter_id: one for one in batch if wanted in (None, one.letter.letter_id)}
            if len(held) >= MOST_LISTED or wanted in found:
                break
        await self._let_go(held)
        first = sorted(found.values(), key=lambda one: (one.letter.first_failed_at, one.letter.letter_id))[:limit]
        numbers = await self._rows.numbers([one.carried.message for one in first if one.carried is not None])
        return [self._show(one, numbers) for one in first]

    async def count(self) -> int:
        return await count(self._sqs, self._letters_url)

    async def replay(self, letter_ids: Collection[str] | None) -> int:
        return await self._settle(letter_ids, self._put_back)

    async def purge(self, letter_ids: Collection[str] | None) -> int:
        return await self._settle(letter_ids, None)

    async def _settle(self, letter_ids: Collection[str] | None, act: Callable[[_Held], Awaitable[None]] | None) -> int:
        """Acts on each letter that is meant, once, and deletes it; None: all that have died until now."""
        began = self._clock.now()
        done: set[str] = set()
        others: list[_Held] = []
        async for batch in self._look():
            for one in batch:
                letter = one.letter
                if letter.last_failed_at > began if letter_ids is None else letter.letter_id not in letter_ids:
                    others.append(one)
                    continue
                if act is not None and letter.letter_id not in done:
                    await act(one)
                done.add(letter.letter_id)
                await self._delete(one)
        await self._let_go(others)
        return len(done)

    async def _put_back(self, held: _Held) -> None:
        replay = self._new_id()
        message = None if held.carried is None else held.carried.message
        await self._send(
            self._queue_url,
            held.text if message is None else bus_format.write(message, replay=replay),
            group=replay if message is None else message.chat_id,
            transport_id=replay,
            chat_id="" if message is None else message.chat_id,
        )

    # -- the queue -----------------------------------------------------------------------------------------------------

    async def _look(self) -> AsyncIterator[list[_Held]]:
        """All that are there, batch by batch; each is hidden for HIDDEN seconds, and seen once."""
        seen: set[str] = set()
        while True:
            found = await self._sqs(
                lambda client: client.receive_message(
                    QueueUrl=self._letters_url,
                    MaxNumberOfMessages=_BATCH,
                    VisibilityTimeout=HIDDEN,
                    WaitTimeSeconds=1,  # a short poll asks only some of the servers
                    MessageSystemAttributeNames=["SentTimestamp"],
                )
            )
            fresh = [self._open(one) for one in found.get("Messages", []) if one["MessageId"] not in seen]
            if not fresh:
                return
            seen |= {one.transport_id for one in fresh}
            yield fresh

    def _open(self, message: "MessageTypeDef") -> _Held:
        text = message["Body"]
        try:
            letter = msgspec.json.decode(bus_format.unpack(text), type=Letter)
            text = letter.text or bus_format.pack(bytes(letter.carried))
        except (msgspec.DecodeError, ValueError):
            letter = None  # moved by the queue itself
        try:
            carried = bus_format.read(text)
        except UnknownFormat:
            carried = None
        if letter is None:
            sent_at = int(message["Attributes"]["SentTimestamp"])
            message_id = message["MessageId"] if carried is None else carried.message.message_id
            letter = Letter(
                letter_id=letter_id(self._queue, message_id, None if carried is None else carried.replay),
                reason=REDRIVEN,
                attempts=0,
                first_failed_at=sent_at,
                last_failed_at=sent_at,
            )
        return _Held(
            transport_id=message["MessageId"],
            receipt=message["ReceiptHandle"],
            letter=letter,
            text=text,
            carried=carried,
        )

    def _show(self, held: _Held, numbers: dict[str, int]) -> DeadLetter:
        letter = held.letter
        message_id, chat_id, body, number = letter.letter_id.split(":")[1], "", msgspec.json.encode(held.text), None
        if held.carried is not None:
            message = held.carried.message
            message_id, chat_id, body = message.message_id, message.chat_id, message.body
            number = numbers.get(message_id)
            if number is not None:
                body = bus_format.with_number(message, number, number).body
        return DeadLetter(
            letter_id=letter.letter_id,
            queue=self._queue.name,
            message_id=message_id,
            chat_id=chat_id,
            sequence_number=number,
            reason=letter.reason,
            attempts=letter.attempts,
            first_failed_at=letter.first_failed_at,
            last_failed_at=letter.last_failed_at,
            body=msgspec.Raw(body),
        )

    async def _send(self, url: str, text: str, *, group: str, transport_id: str, chat_id: str) -> None:
        optional: dict[str, Any] = {}
        if self._queue.fifo:
            optional |= {"MessageGroupId": group, "MessageDeduplicationId": transport_id}
        if chat_id:
            optional["MessageAttributes"] = {"chatId": {"DataType": "String", "StringValue": chat_id}}
        await self._sqs(lambda client: client.send_message(QueueUrl=url, MessageBody=text, **optional))

    async def _delete(self, held: _Held) -> None:
        await self._sqs(lambda client: client.delete_message(QueueUrl=self._letters_url, ReceiptHandle=held.receipt))

    async def _let_go(self, held: Sequence[_Held]) -> None:
        for start in range(0, len(held), _BATCH):
            entries = [
                {"Id": str(index), "ReceiptHandle": one.receipt, "VisibilityTimeout": 0}
                for index, one in enumerate(held[start : start + _BATCH])
            ]
            await self._sqs(self._release(entries))

    def _release(self, entries: list[Any]) -> "Callable[[SQSClient], object]":
        return lambda client: client.change_message_visibility_batch(QueueUrl=self._letters_url, Entries=entries)


async def count(sqs: "Calls[SQSClient]", url: str) -> int:
    """What a queue holds: to be received, being tried, and hidden until another try."""
    found = await sqs(lambda client: client.get_queue_attributes(QueueUrl=url, AttributeNames=_COUNTS))
    return sum(int(found["Attributes"][name]) for name in _COUNTS)
