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
    refused = [(answer.code, answer.chat_id) for answer in answers if isinstance(answer, Refusal)]
    assert refused == [("idempotency_conflict", "c1")]
    assert [row["payload"]["content"] for row in await harness.history("c1")] == [1, 3]


async def test_what_is_misshapen_is_refused_with_its_chat_as_far_as_that_can_be_read(harness: EmbeddedHarness) -> None:
    bodies: list[dict[str, object]] = [
        {"chatId": "c1", "eventType": "chat"},
        {"chatId": "c1", "eventType": "", "content": 1},
        {"chatId": "not good", "eventType": "chat"},
        {"chatId": 7, "eventType": "chat", "content": 1},
    ]
    offers = [Offer(identity("alice"), request(payload=body)) for body in bodies]
    answers = await harness.service.p2p_publisher.publish(offers)
    assert [(answer.field, answer.chat_id) for answer in answers if isinstance(answer, Refusal)] == [
        ("payload.content", "c1"),
        ("payload.eventType", "c1"),
        ("payload.content", None),
        ("payload.chatId", None),
    ]


async def test_a_permission_is_asked_for_at_every_publish(harness: EmbeddedHarness) -> None:
    offers = [Offer(identity("alice"), request())]
    publish = harness.service.p2p_publisher.publish
    outcomes = [await publish(offers)]
    await harness.grant("alice", "c1", "member")
    outcomes.append(await publish(offers))
    await harness.service.chat_permission.revoke(identity("alice"), "alice", "c1")
    outcomes.append(await publish(offers))
    assert [isinstance(answer, Receipt) for (answer,) in outcomes] == [False, True, False]
