"""Message Storage: what it is handed is stored, again makes no difference, and no number is touched."""

from collections.abc import Sequence

from tests.conformance.embedded import EmbeddedHarness
from tocsin.message import Message
from tocsin.topology import MESSAGE_STORAGE_QUEUE


async def test_what_it_is_handed_again_is_stored_once(harness: EmbeddedHarness) -> None:
    handed: list[Message] = []

    async def note(messages: Sequence[Message]) -> None:
        handed.extend(messages)

    harness.meddle(MESSAGE_STORAGE_QUEUE, note)
    await harness.publish_many("c1", [1, 2])
    await harness.publish("c1", "plain", kind="standard")
    await harness.publish("c1", "elsewhere", channel="email")
    await harness.settle()
    before = await harness.history("c1")
    await harness.service.message_storage.store(handed)
    await harness.service.message_storage.store(handed[::-1])
    assert await harness.history("c1") == before
    assert [row.get("sequenceNumber") for row in before] == [1, 2, None, None]
