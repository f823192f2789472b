"""A2P HTTP Publisher: one request one answer, a batch an answer for each entry, and in a chat nothing overtakes."""

from collections.abc import Sequence

import pytest

from tests.components.requests import request
from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import BACK_END, Options, identity, refusal_of
from tocsin.bus import Receipt
from tocsin.errors import Refusal, invalid
from tocsin.message import PublishRequest
from tocsin.publishing import Answer, Offer

ALICE = identity("alice")
Entry = tuple[PublishRequest | Refusal, str | None]


def codes(answers: Sequence[Answer]) -> list[str]:
    return [answer.code if isinstance(answer, Refusal) else "accepted" for answer in answers]


@pytest.fixture
async def member(harness: EmbeddedHarness) -> EmbeddedHarness:
    """Alice is a member of c1 and c2."""
    for chat in ("c1", "c2"):
        await harness.grant("alice", chat, "member")
    return harness


# -- one -------------------------------------------------------------------------------------------------------------


async def test_the_headers_id_is_the_messages_own(member: EmbeddedHarness) -> None:
    publish = member.service.a2p_publisher.publish
    first = await publish(ALICE, request(), "id-1")
    again = await publish(ALICE, request(messageDeduplicationId="id-1"), None)
    both = await publish(ALICE, request(messageDeduplicationId="id-1"), "id-1")
    assert {first.message_id, again.message_id, both.message_id} == {first.message_id}
    (row,) = await member.history("c1")
    assert row["messageDeduplicationId"] == "id-1"


async def test_two_ids_that_differ_are_refused(member: EmbeddedHarness) -> None:
    with pytest.raises(Refusal) as refused:
        await member.service.a2p_publisher.publish(ALICE, request(messageDeduplicationId="id-1"), "id-2")
    assert (refused.value.code, refused.value.field) == ("invalid_argument", "messageDeduplicationId")
    assert await member.history("c1") == []


async def test_members_publish_and_readers_do_not(harness: EmbeddedHarness) -> None:
    publish = harness.service.a2p_publisher.publish
    for role, code in (("reader", "forbidden"), ("member", None), ("admin", None), ("owner", None)):
        await harness.grant("alice", "c1", role)  # type: ignore[arg-type]
        if code is None:
            await publish(ALICE, request(), None)
        else:
            assert await refusal_of(publish(ALICE, request(), None)) == code
    assert await refusal_of(publish(identity("mallory"), request(), None)) == "forbidden"
    assert await refusal_of(publish(identity("auditor", "messages:read"), request(), None)) == "forbidden"
    await publish(identity("service", "publish:any"), request(), None)
    assert await harness.numbered("c1") == [1, 2, 3, 4]


async def test_a_ticket_limits_what_may_be_published_to_even_with_publish_any(member: EmbeddedHarness) -> None:
    publish = member.service.a2p_publisher.publish
    for limited in (identity("alice", chat_ids=["c1"]), identity("alice", "publish:any", chat_ids=["c1"])):
        await publish(limited, request("c1"), None)
        assert await refusal_of(publish(limited, request("c2"), None)) == "forbidden"


async def test_a_token_that_has_ended_publishes_nothing(member: EmbeddedHarness) -> None:
    publish = member.service.a2p_publisher.publish
    now = member.clock.now()
    await publish(identity("alice", expires_at=now + 1), request(), None)
    assert await refusal_of(publish(identity("alice", expires_at=now), request(), None)) == "token_expired"


async def test_refusals_come_in_the_contracts_order(stand: EmbeddedHarness) -> None:
    """401, 400, 403, 429, 409."""
    await stand.start(Options(publish_rate=1, publish_burst=1))
    publish = stand.service.a2p_publisher.publish
    bad = request(payload={"chatId": "not an id", "eventType": "chat", "content": 1})
    ended = identity("alice", expires_at=0)
    assert await refusal_of(publish(ended, bad, None)) == "token_expired"
    assert await refusal_of(publish(ALICE, bad, None)) == "invalid_argument"
    assert await refusal_of(publish(ALICE, request(), None)) == "forbidden"
    await stand.grant("alice", "c1", "member")
    await publish(ALICE, request(), "id-1")
    assert await refusal_of(publish(ALICE, request(content="other"), "id-1")) == "rate_limited"
    stand.clock.advance(1.1)
    assert await refusal_of(publish(ALICE, request(content="other"), "id-1")) == "idempotency_conflict"


async def test_both_doors_and_all_entries_share_one_bucket_and_services_have_none(stand: EmbeddedHarness) -> None:
    await stand.start(Options(publish_rate=1, publish_burst=4))
    for chat in ("c1", "c2"):
        await stand.grant("alice", chat, "member")
    a2p, p2p = stand.service.a2p_publisher, stand.service.p2p_publisher
    await a2p.publish(ALICE, request(), None)
    assert codes(await a2p.publish_batch(ALICE, [(request(), "c1")] * 2)) == ["accepted"] * 2
    answers = await p2p.publish([Offer(ALICE, request()), Offer(ALICE, request()), Offer(ALICE, request("c2"))])
    assert codes(answers) == ["accepted", "rate_limited", "accepted"]
    refused = answers[1]
    assert isinstance(refused, Refusal)
    assert refused.chat_id == "c1"
    assert refused.retry_after == pytest.approx(1, abs=0.1)
    for _ in range(10):
        await a2p.publish(BACK_END, request(), None)


# -- batches ---------------------------------------------------------------------------------------------------------


async def test_each_entry_has_its_answer_in_order(member: EmbeddedHarness) -> None:
    entries: list[Entry] = [
        (request("c1", 1), "c1"),
        (request("secret"), "secret"),
        (request("c2", 2), "c2"),
        (invalid("messages[3].payload", "It is wrong."), None),
        (request("c1", 3), "c1"),
    ]
    answers = await member.service.a2p_publisher.publish_batch(ALICE, entries)
    assert codes(answers) == ["accepted", "forbidden", "accepted", "invalid_argument", "accepted"]
    assert [row["payload"]["content"] for row in await member.history("c1")] == [1, 3]


async def test_what_follows_a_refused_entry_of_its_chat_is_refused(member: EmbeddedHarness) -> None:
    await member.service.a2p_publisher.publish(ALICE, request("c2", "first"), "id-1")
    entries: list[Entry] = [
        (request("c1", 1), "c1"),
        (invalid("messages[1].payload.eventType", "It is wrong."), "c1"),
        (request("c1", 2, messageType="standard"), "c1"),
        (request("c2", "other", messageDeduplicationId="id-1"), "c2"),
        (request("c2", 3), "c2"),
        (request("c1", payload={"chatId": "c1", "eventType": "", "content": 1}), "c1"),
        (request("c1", 4), "c1"),
    ]
    answers = await member.service.a2p_publisher.publish_batch(ALICE, entries)
    assert codes(answers) == [
        "accepted",
        "invalid_argument",
        "after_refused",
        "idempotency_conflict",
        "after_refused",
        "invalid_argument",
        "after_refused",
    ]
    assert [row["payload"]["content"] for row in await member.history("c1")] == [1]


async def test_an_entry_that_waits_for_its_rate_holds_back_what_follows_in_its_chat(stand: EmbeddedHarness) -> None:
    await stand.start(Options(publish_rate=1, publish_burst=2))
    for chat in ("c1", "c2"):
        await stand.grant("alice", chat, "member")
    entries: list[Entry] = [*((request("c1", number), "c1") for number in range(4)), (request("c2"), "c2")]
    answers = await stand.service.a2p_publisher.publish_batch(ALICE, entries)
    assert codes(answers) == ["accepted", "accepted", "rate_limited", "rate_limited", "accepted"]


async def test_an_entry_repeated_within_the_batch_is_one_message(member: EmbeddedHarness) -> None:
    entry = (request(messageDeduplicationId="id-1"), "c1")
    first, second = await member.service.a2p_publisher.publish_batch(ALICE, [entry, entry])
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (first.duplicate, second.duplicate, second.message_id) == (False, True, first.message_id)


async def test_a_commit_that_fails_answers_the_whole_batch(stand: EmbeddedHarness) -> None:
    await stand.start(Options(failpoints="commit.before_sync=raise@4"))
    await stand.grant("alice", "c1", "member")
    entries: list[Entry] = [(request(), "c1"), (request("secret"), "secret"), (request(), "c1")]
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(codes(await stand.service.a2p_publisher.publish_batch(ALICE, entries)))
        except Refusal as refusal:
            outcomes.append([refusal.code])
    assert outcomes.count(["unavailable"]) == 1
    assert outcomes.count(["accepted", "forbidden", "accepted"]) == 3
    assert await stand.numbered("c1") == list(range(1, 7))


async def test_what_was_published_and_refused_is_counted(member: EmbeddedHarness) -> None:
    entries: list[Entry] = [*[(request(messageDeduplicationId="id-1"), "c1")] * 3, (request("secret"), "secret")]
    await member.service.a2p_publisher.publish_batch(ALICE, entries)
    value = member.embedded.metrics.registry.get_sample_value
    assert value("tocsin_publishes_total", {"door": "a2p"}) == 3
    assert value("tocsin_duplicates_total") == 2
    assert value("tocsin_refusals_total", {"code": "forbidden"}) == 1
