"""What one transaction draws: numbers, places, claims, rows. It counts when the transaction has come back.

    GroupCommit -> draw (each append) -> write -> sync -> settle, or undo

Rule: it all runs on the loop's thread, between two transactions, so what is drawn is drawn from what is committed.
"""

from collections.abc import Sequence
from typing import cast

import apsw
import structlog

from tocsin.bus import Receipt
from tocsin.engines.embedded.chats import MAX_KEY, ORDINAL_MASK, Chat, Chats
from tocsin.engines.embedded.dedupe import Claims
from tocsin.engines.embedded.sql import QUERY
from tocsin.errors import Refusal, after_refused
from tocsin.message import Message, Publication

Answer = Receipt | Refusal

log = structlog.get_logger(__name__)


class Draft:
    __slots__ = (
        "_chats",
        "_claims",
        "_connection",
        "_drawn",
        "_new",
        "_now",
        "answers",
        "last_key",
        "messages",
        "position",
        "rows",
    )

    def __init__(
        self, connection: apsw.Connection, *, chats: Chats, claims: Claims, position: int, last_key: int, now: int
    ) -> None:
        """`position` and `last_key` are the log's last position and the last chat's key, as committed."""
        self._connection = connection
        self._chats = chats
        self._claims = claims
        self._now = now
        self.position = position
        self.last_key = last_key
        #: Rows of the log, the messages that they become, and their chats, side by side.
        self.rows: list[tuple[int, int, int | None, int, bytes]] = []
        self.messages: list[Message] = []
        self._drawn: list[Chat] = []
        self._new: list[Chat] = []
        #: One list for each append.
        self.answers: list[list[Answer]] = []

    def draw(self, publications: Sequence[Publication], *, chained: bool) -> None:
        """Numbers for one append's publications, and their rows. One that can't be written fails alone."""
        answers: list[Answer] = []
        refused: set[str] = set()
        for publication in publications:
            if publication.chat_id in refused:
                answers.append(after_refused(publication.chat_id))
                continue
            if publication.deduplication_id is not None:
                seen = self._claims.find(self._connection, publication, self._now)
                if seen is not None:
                    answers.append(seen)
                    if chained and isinstance(seen, Refusal):
                        refused.add(publication.chat_id)
                    continue
            chat = self._chats.get(publication.chat_id)
            if chat is None or not chat.key:
                chat = self._load(publication.chat_id)
            if chat.drawn_ordinal == ORDINAL_MASK or not chat.key:
                answers.append(_no_place(publication.chat_id))
                if chained:
                    refused.add(publication.chat_id)
                continue
            number = chat.drawn_sequence + 1 if publication.numbered else None
            try:
                body = publication.render(number)
            except (TypeError, ValueError) as error:
                log.error("a publication could not be written", exc_info=error)
                answers.append(Refusal("internal", "This message could not be written."))
                continue
            if number is not None:
                chat.drawn_sequence = number
            chat.drawn_ordinal += 1
            self.position += 1
            place = chat.base | chat.drawn_ordinal
            self.rows.append((self.position, place, number, publication.timestamp, body))
            self._drawn.append(chat)
            self.messages.append(
                Message(
                    message_id=publication.message_id,
                    chat_id=publication.chat_id,
                    target_channel=publication.target_channel,
                    timestamp=publication.timestamp,
                    sequence_number=number,
                    ordered=publication.ordered,
                    body=body,
                    position=self.position,
                )
            )
            answers.append(Receipt(message_id=publication.message_id, timestamp=publication.timestamp))
        self.answers.append(answers)

    def _load(self, chat_id: str) -> Chat:
        """A chat that memory does not hold, or that has its first message now."""
        chat = self._chats.get(chat_id)
        if chat is None:
            found = self._connection.execute(QUERY["find_chat"], (chat_id,)).fetchone()
            chat = self._chats.add(Chat(chat_id, *cast("tuple[int, int, int]", found or ())))
        if not chat.key and self.last_key < MAX_KEY:
            self.last_key += 1
            chat.give_key(self.last_key)
            self._connection.execute(QUERY["add_chat"], (chat.key, chat_id))
            self._new.append(chat)
        return chat

    def write(self) -> None:
        if self.rows:
            self._connection.executemany(QUERY["append"], self.rows)
        self._claims.write(self._connection, self._now)

    def settle(self) -> None:
        """It is durable: heads move, and the log has what storage has not."""
        self._claims.settle(self._now, committed=True)
        for chat, (position, place, sequence, timestamp, _) in zip(self._drawn, self.rows, strict=True):
            chat.ordinal = place & ORDINAL_MASK
            if sequence is not None:
                chat.sequence = sequence
                if chat.oldest_at is None and chat.oldest == sequence:
                    chat.oldest_at = timestamp
            chat.unmoved.append(position, place, sequence, timestamp)

    def undo(self) -> None:
        """Nothing of it is in the store."""
        self._claims.settle(self._now, committed=False)
        for chat in self._drawn:
            chat.drawn_sequence, chat.drawn_ordinal = chat.sequence, chat.ordinal
        for chat in self._new:
            chat.give_key(0)


def _no_place(chat_id: str) -> Refusal:
    return Refusal("insufficient_storage", "The store has no place left for this chat.", chat_id=chat_id)
