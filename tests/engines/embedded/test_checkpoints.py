"""The write-ahead log stays short while commits go on."""

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tocsin.engines.embedded import checkpoints


async def test_the_write_ahead_log_is_copied_back_and_begun_anew(
    bare: EmbeddedHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "WAL_PAGES", 50)
    pages, number = [0], 0
    while pages[-1] >= pages[number - 1] and number < 1_000:
        await bare.publish_many("c1", ["x" * 1_000] * 10)
        pages.append(bare.embedded.folder.wal_pages)
        number += 1
    assert max(pages) > 50 > pages[-1]
    assert await bare.numbered("c1") == list(range(1, 10 * number + 1))
