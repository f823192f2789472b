"""P2P WebSocket Publisher: what many clients sent in one turn, together, and each with its own answer."""

from tests.components.requests import request
from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import identity
from tocsin.bus import Receipt
from tocsin.errors import Refusal
from tocsin.publishing import Offer


async def test_each_sender_has_his_own_answer_and_his_name_on_the_message(harness: EmbeddedHarness) -> None:
    for user in ("alice", "bob"):
        await harness.grant(user, "c1", "member")
    offers = [
        Offer(identity("alice"), request(content=1)),
        Offer(identity("mallory"), request(content=2)),
        Offer(identity("bob"), request(content=3)),
        Offer(identity("alice"), request(content=4)),
    ]
    answers = await harness.service.p2p_publisher.publish(offers)
    assert [answer.code if isinstance(answer, Refusal) else "accepted" for answer in answers] == [
        "accepted",
        "forbidden",
        "accepted",
        "accepted",
    ]
    rows = await harness.history("c1")
    assert [(row["senderId"], row["payload"]["content"]) for row in rows] == [("alice", 1), ("bob", 3), ("alice", 4)]
    assert [answer.message_id for answer in answers if isinstance(answer, Receipt)] == [
        row["messageId"] for row in rows
    ]


async def test_one_senders_refusal_holds_back_nobody_not_even_himself(harness: EmbeddedHarness) -> None:
    await harness.grant("alice", "c1", "member")
    alice = identity("alice")
    offers = [
        Offer(alice, request(content=1, messageDeduplicationId="id-1")),
        Offer(alice, request(content=2, messageDeduplicationId="id-1")),
        Offer(alice, request(content=3)),
    ]
    answers = await harness.service.p2p_publisher.publish(offers)
    assert [answer.code for answer in answers if isinstance(answer, Refusal)] == ["idempotency_conflict"]
    assert [row["payload"]["content"] for row in await harness.history("c1")] == [1, 3]


async def test_a_permission_is_asked_for_at_every_publish(harness: EmbeddedHarness) -> None:
    offers = [Offer(identity("alice"), request())]
    publish = harness.service.p2p_publisher.publish
    outcomes = [await publish(offers)]
    await harness.grant("alice", "c1", "member")
    outcomes.append(await publish(offers))
    await harness.service.chat_permission.revoke(identity("alice"), "alice", "c1")
    outcomes.append(await publish(offers))
    assert [isinstance(answer, Receipt) for (answer,) in outcomes] == [False, True, False]
