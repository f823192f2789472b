"""Storage moves the log in slices, and rests between them; a chat knows what only the log has."""

from collections.abc import Sequence

from tests.conformance.embedded import EmbeddedHarness
from tests.manual_clock import ManualClock, turns
from tocsin.engines.embedded.chats import Unmoved
from tocsin.engines.embedded.storage_queue import MOVE_SECONDS, REST, SLICE
from tocsin.message import Message
from tocsin.topology import MESSAGE_STORAGE_QUEUE


class SlowStore:
    """A consumer that writes down when each slice came, and needs its time for it."""

    def __init__(self, harness: EmbeddedHarness, seconds: float) -> None:
        self.began: list[float] = []
        self._harness = harness
        self._seconds = seconds

    async def __call__(self, messages: Sequence[Message]) -> None:
        self.began.append(self._harness.clock.monotonic())
        self._harness.clock.advance(self._seconds)
        await self._harness.engine.messages.store(messages)


async def until(clock: ManualClock, store: SlowStore, slices: int, step: float) -> None:
    while len(store.began) < slices:
        await clock.run(turns(), step=step)
        clock.advance(step)


async def test_after_a_slice_storage_rests_for_longer_than_it_took(stand: EmbeddedHarness) -> None:
    store = SlowStore(stand, seconds=0.5)
    await stand.start(consumers={MESSAGE_STORAGE_QUEUE: store})
    await stand.publish_many("c", range(3 * SLICE))
    stand.clock.advance(MOVE_SECONDS)
    await until(stand.clock, store, 3, step=0.05)
    pauses = [later - earlier for earlier, later in zip(store.began, store.began[1:], strict=False)]
    assert all(pause >= (1 + REST) * 0.5 for pause in pauses)
    await stand.settle()
    assert await stand.numbered("c") == list(range(1, 3 * SLICE + 1))


async def test_who_waits_for_storage_does_not_wait_for_its_rests(stand: EmbeddedHarness) -> None:
    store = SlowStore(stand, seconds=0.5)
    await stand.start(consumers={MESSAGE_STORAGE_QUEUE: store})
    await stand.publish_many("c", range(3 * SLICE))
    await stand.engine.bus.drain()
    assert [later - earlier for earlier, later in zip(store.began, store.began[1:], strict=False)] == [0.5, 0.5]


def test_a_chat_knows_what_only_the_log_has_in_its_order() -> None:
    unmoved = Unmoved()
    rows = [(7, 70, 1, 1_000), (9, 71, None, 1_001), (12, 72, 2, 1_002)]
    for row in rows:
        unmoved.append(*row)
    assert (list(unmoved), list(reversed(unmoved)), len(unmoved)) == (rows, rows[::-1], 3)
    assert [unmoved.positions(upto) for upto in (6, 7, 11, 12)] == [[], [7], [7, 9], [7, 9, 12]]
    unmoved.drop(2)
    assert (list(unmoved), unmoved.oldest) == ([(12, 72, 2, 1_002)], 1_002)
    unmoved.drop(1)
    assert not unmoved
