"""Message Storage: MessageStorageQueue -> message table, for 30 days. (Seed: message-storage-handler/)

Rule: it upserts and never touches a number; number and message were committed before (decision record 0005).
"""

from collections.abc import Sequence

from tocsin.message import Message
from tocsin.tables import Messages


class MessageStorage:
    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    async def store(self, messages: Sequence[Message]) -> None:
        await self._messages.store(messages)
