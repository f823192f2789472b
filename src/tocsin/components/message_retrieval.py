"""Message Retrieval: GET /messages -> history, page by page. (Seed: message-retrieval-handler/)

Rule: the head is read first, the page second, the oldest number last, so that a page never lacks what they promise.
"""

import msgspec

from tocsin.errors import forbidden
from tocsin.identity import Identity
from tocsin.roles import may_read
from tocsin.tables import Head, Messages, Numbers, Page, Permissions


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """What of a chat: by time (inclusive milliseconds), or by number (inclusive), ascending or descending."""

    chat_id: str
    limit: int
    ascending: bool
    by_number: bool = False
    first: int | None = None
    last: int | None = None
    after: str | None = None


class History(msgspec.Struct, frozen=True, kw_only=True):
    page: Page
    head: Head


class MessageRetrieval:
    def __init__(self, *, messages: Messages, numbers: Numbers, permissions: Permissions) -> None:
        self._messages = messages
        self._numbers = numbers
        self._permissions = permissions

    async def retrieve(self, identity: Identity, wanted: Range) -> History:
        chat_id = wanted.chat_id
        (role,) = await self._permissions.roles([(identity.user_id, chat_id)])
        if identity.chat_ids is not None and chat_id not in identity.chat_ids:
            raise forbidden(chat_id)
        if not may_read(identity.user_id, chat_id, role) and "messages:read" not in identity.scopes:
            raise forbidden(chat_id)
        head = (await self._numbers.heads([chat_id]))[chat_id]
        if wanted.by_number:
            first = int(wanted.after) if wanted.after is not None else wanted.first or 1
            last = head.sequence if wanted.last is None else wanted.last
            page = await self._messages.by_number(chat_id, first, last, wanted.limit)
        else:
            page = await self._messages.by_time(
                chat_id,
                wanted.first,
                wanted.last,
                ascending=wanted.ascending,
                after=wanted.after,
                limit=wanted.limit,
            )
        oldest = (await self._numbers.heads([chat_id]))[chat_id].oldest  # what expired meanwhile is not promised
        return History(page=page, head=msgspec.structs.replace(head, oldest=oldest))
