"""Whole journeys, from a publish to who hears it and back: what docs/contracts.md promises.

publisher -> bus -> processor -> clients        beside it: bus -> message-storage -> message-retrieval
"""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from tests.conformance.harness import BACK_END, DAY, Client, Harness, Options, identity, poison, refusal_of
from tocsin.bus import Receipt
from tocsin.components.message_retrieval import Range
from tocsin.components.websocket_authorizer import ConnectRequest
from tocsin.errors import CloseCode, Refusal
from tocsin.identity import Identity
from tocsin.message import PublishRequest
from tocsin.publishing import Answer, Offer
from tocsin.topology import WEBSOCKET_FIFO_QUEUE


def request(chat_id: str, content: object = "hello", **fields: str) -> PublishRequest:
    payload = msgspec.json.encode({"chatId": chat_id, "eventType": "chat", "content": content})
    wanted = {"messageType": "fifo", "payload": msgspec.Raw(payload)} | fields
    return msgspec.convert(wanted, PublishRequest)


async def send(harness: Harness, who: Identity, *requests: PublishRequest) -> Sequence[Answer]:
    return await harness.service.p2p_publisher.publish([Offer(who, one) for one in requests])


def gaps(client: Client, chat_id: str) -> list[tuple[int, int]]:
    return [(frame["from"], frame["to"]) for frame in client.of_type("gap", chat_id)]


def subscribed(client: Client, chat_id: str) -> tuple[int, int, bool]:
    """Head, oldest, recovered of the last one."""
    frame = client.of_type("subscribed", chat_id)[-1]
    return frame["headSequence"], frame["oldestSequence"], frame["recovered"]


# -- publishing and hearing ------------------------------------------------------------------------------------------


async def test_what_one_publishes_all_of_the_chat_hear_and_can_read(harness: Harness) -> None:
    alice, bob = await harness.member("alice", "c1"), await harness.member("bob", "c1")
    (receipt,) = await send(harness, alice.identity, request("c1"))
    assert isinstance(receipt, Receipt)
    if "ack_first" in harness.engine.strengths:
        assert harness.heard(alice, "c1") == []
    await harness.settle()
    history = await harness.service.message_retrieval.retrieve(
        bob.identity, Range(chat_id="c1", limit=10, ascending=True)
    )
    (row,) = [msgspec.json.decode(body) for body in history.page.bodies]
    assert row["messageId"] == receipt.message_id
    assert harness.heard(alice, "c1") == harness.heard(bob, "c1") == [{"type": "message"} | row]
    assert (history.head.sequence, history.head.oldest) == (1, 1)


async def test_publishes_that_wait_for_no_answer_keep_their_order(harness: Harness) -> None:
    alice = await harness.member("alice", "c1")
    sending = [asyncio.ensure_future(send(harness, alice.identity, request("c1", index))) for index in range(30)]
    if "pipelined_order" not in harness.engine.strengths:
        for one in sending:
            await one
    await asyncio.gather(*sending)
    await harness.settle()
    contents = [frame["payload"]["content"] for frame in harness.heard(alice, "c1")]
    assert harness.numbers(alice, "c1") == list(range(1, 31))
    if "pipelined_order" in harness.engine.strengths:
        assert contents == list(range(30))


async def test_a_repeated_publish_is_heard_once(harness: Harness) -> None:
    alice = await harness.member("alice", "c1")
    again = request("c1", messageDeduplicationId="id-1")
    first, second = await send(harness, alice.identity, again, again)
    third = await harness.service.a2p_publisher.publish(alice.identity, request("c1"), "id-1")
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert {first.message_id, second.message_id, third.message_id} == {first.message_id}
    await harness.settle()
    assert harness.numbers(alice, "c1") == [1]


async def test_what_was_refused_is_never_heard_nor_stored(harness: Harness) -> None:
    """Invariant 10."""
    await harness.grant("alice", "c1", "reader")
    alice = await harness.connect("alice", "c1")
    answers = await send(harness, alice.identity, request("c1"), request("c2"))
    assert [answer.code for answer in answers if isinstance(answer, Refusal)] == ["forbidden", "forbidden"]
    await harness.settle()
    assert harness.heard(alice, "c1") == []
    assert await harness.history("c1") == await harness.history("c2") == []


async def test_everybody_has_an_inbox_that_only_services_write_to(harness: Harness) -> None:
    alice = await harness.connect("alice", "user:alice")
    assert await refusal_of(harness.service.a2p_publisher.publish(alice.identity, request("user:alice"), None)) == (
        "forbidden"
    )
    await harness.service.a2p_publisher.publish(BACK_END, request("user:alice"), None)
    await harness.settle()
    assert harness.numbers(alice, "user:alice") == [1]
    mallory = await harness.connect("mallory")
    assert await refusal_of(mallory.subscribe("user:alice")) == "forbidden"
    await harness.grant("alice", "user:alice", "member")
    await harness.service.chat_permission.revoke(BACK_END, "alice", "user:alice")
    await harness.service.a2p_publisher.publish(BACK_END, request("user:alice"), None)
    await harness.settle()
    assert harness.numbers(alice, "user:alice") == [1, 2]
    assert alice.of_type("revoked") == []


async def test_a_poisoned_message_dies_and_the_chat_goes_on(harness: Harness) -> None:
    """Invariant 13."""
    cure = harness.meddle(WEBSOCKET_FIFO_QUEUE, poison("poison"))
    alice = await harness.member("alice", "c1")
    await send(harness, alice.identity, *[request("c1", content) for content in ("one", "poison", "three")])
    await send(harness, BACK_END, request("c2", "elsewhere"))
    await harness.settle()
    assert harness.numbers(alice, "c1") == [1, 3]
    if "gap_frames" in harness.engine.strengths:
        assert gaps(alice, "c1") == [(2, 2)]
    (letter,) = await harness.dead_letters()
    assert (letter.attempts, letter.sequence_number) == (3, 2)
    assert await harness.numbered("c1") == [1, 2, 3]
    cure()
    late = await harness.connect("alice")
    await late.subscribe("c1", last=0)
    assert await harness.engine.bus.replay([letter.letter_id]) == 1
    await harness.settle()
    assert harness.numbers(late, "c1") == [1, 2, 3]
    assert await harness.numbered("c1") == [1, 2, 3]


# -- resuming --------------------------------------------------------------------------------------------------------


async def test_who_comes_back_gets_what_he_missed_and_then_what_is_new(harness: Harness) -> None:
    await harness.grant("alice", "c1", "member")
    await harness.publish_many("c1", [1, 2, 3, 4])
    await harness.stored()
    alice = await harness.connect("alice")
    await alice.subscribe("c1", last=2)
    await harness.publish("c1", 5)
    await harness.settle()
    assert harness.numbers(alice, "c1") == [3, 4, 5]
    assert subscribed(alice, "c1") == (4, 1, True)
    kinds = [frame["type"] for frame in alice.frames]
    assert kinds == ["message", "message", "subscribed", "message"]


@pytest.mark.parametrize("life", ["stop", "crash"])
async def test_who_resumes_after_a_restart_misses_nothing(harness: Harness, life: str) -> None:
    alice = await harness.member("alice", "c1")
    await harness.publish_many("c1", [1, 2, 3])
    await harness.settle()
    last = harness.numbers(alice, "c1")[-1]
    await harness.publish_many("c1", [4, 5])
    await (harness.restart() if life == "stop" else harness.crash())
    await harness.publish("c1", 6)
    back = await harness.connect("alice")
    await back.subscribe("c1", last=last)
    await harness.publish("c1", 7)
    await harness.settle()
    assert harness.numbers(back, "c1") == [4, 5, 6, 7]


async def test_who_knows_more_than_the_store_is_told_and_goes_on_from_its_head(harness: Harness) -> None:
    """Invariant 17."""
    await harness.grant("alice", "c1", "member")
    await harness.publish_many("c1", [1, 2])
    await harness.stored()
    epoch = (await harness.engine.numbers.heads(["c1"]))["c1"].epoch
    for last, claimed in ((7, None), (7, epoch), (1, "another")):
        alice = await harness.connect("alice")
        await alice.subscribe("c1", last=last, epoch=claimed)
        assert subscribed(alice, "c1") == (2, 1, False)
        assert [frame["type"] for frame in alice.frames] == ["subscribed"]
    await alice.subscribe("c1", last=1, epoch=epoch)
    assert subscribed(alice, "c1") == (2, 1, True)
    await harness.publish("c1", 3)
    await harness.settle()
    assert harness.numbers(alice, "c1") == [2, 3]


async def test_what_expired_while_one_was_away_is_told_by_a_gap(stand: Harness) -> None:
    await stand.start(Options(retention=DAY))
    await stand.grant("alice", "c1", "member")
    await stand.publish_many("c1", [1, 2, 3])
    await stand.stored()
    stand.clock.advance(86_000)
    await stand.publish_many("c1", [4, 5])
    await stand.stored()
    stand.clock.advance(500)
    alice = await stand.connect("alice")
    await alice.subscribe("c1", last=1)
    assert gaps(alice, "c1") == [(2, 3)]
    assert stand.numbers(alice, "c1") == [4, 5]
    assert subscribed(alice, "c1") == (5, 4, False)
    stand.clock.advance(86_500)
    back = await stand.connect("alice")
    await back.subscribe("c1", last=4)
    assert gaps(back, "c1") == [(5, 5)]
    assert subscribed(back, "c1") == (5, 6, False)
    await back.subscribe("c1", last=5)
    assert subscribed(back, "c1") == (5, 6, True)


async def test_what_expires_during_a_replay_is_told_by_a_gap(stand: Harness) -> None:
    await stand.start(Options(retention=DAY))
    await stand.grant("alice", "c1", "member")
    await stand.publish_many("c1", [1, 2, 3])
    await stand.stored()
    stand.clock.advance(86_000)
    await stand.publish_many("c1", [4, 5])
    await stand.stored()
    alice = await stand.connect("alice")
    alice.stall()
    subscribing = asyncio.ensure_future(alice.subscribe("c1", last=1))
    await stand.settle()
    stand.clock.advance(500)
    alice.resume()
    if not await stand.went_through(subscribing):
        await alice.subscribe("c1", last=1)
    assert gaps(alice, "c1") == [(2, 3)]
    assert stand.numbers(alice, "c1") == [4, 5]
    assert subscribed(alice, "c1")[2] is False


async def test_a_replay_that_would_be_too_large_brings_the_newest_behind_a_gap(harness: Harness) -> None:
    await harness.grant("alice", "c1", "member")
    for _ in range(8):
        await harness.publish_many("c1", ["x" * 120_000] * 10)
    await harness.stored()
    alice = await harness.connect("alice")
    await alice.subscribe("c1", last=3)
    ((first, last),) = gaps(alice, "c1")
    numbers = harness.numbers(alice, "c1")
    assert first == 4
    assert numbers == list(range(last + 1, 81))
    assert 65 <= len(numbers) <= 70  # 8 MiB
    assert subscribed(alice, "c1") == (80, 1, False)
    assert alice.frames[0]["type"] == "gap"


async def test_a_replay_has_so_many_messages_at_most(stand: Harness) -> None:
    """Ten thousand, where a test can publish as many."""
    some = 20 * stand.many
    await stand.start(Options(replay_messages=5 * some))
    await stand.grant("alice", "c1", "member")
    for _ in range(6):
        await stand.publish_many("c1", ["x"] * some)
    await stand.stored()
    alice = await stand.connect("alice")
    await alice.subscribe("c1", last=0)
    assert gaps(alice, "c1") == [(1, some)]
    assert stand.numbers(alice, "c1") == list(range(some + 1, 6 * some + 1))
    assert subscribed(alice, "c1") == (6 * some, 1, False)


async def test_between_replay_and_live_there_is_no_hole_and_no_repeat_under_load(harness: Harness) -> None:
    before, rounds = 5 * harness.many, min(30, 5 * harness.many)
    await harness.grant("alice", "c1", "member")
    await harness.publish_many("c1", list(range(before)))
    await harness.stored()
    clients: dict[int, Client] = {}

    async def load() -> None:
        for number in range(rounds):
            await harness.publish_many("c1", [number] * 5)

    async def resume(last: int) -> None:
        clients[last] = await harness.connect("alice")
        await clients[last].subscribe("c1", last=last)

    begins = range(0, before, max(1, before // 10))
    await harness.clock.run(asyncio.gather(load(), *map(resume, begins)))
    await harness.settle()
    for last, client in clients.items():
        assert harness.accounted(client.frames, "c1") == list(range(last + 1, before + 5 * rounds + 1))


async def test_subscribing_again_without_a_number_changes_nothing_and_answers(harness: Harness) -> None:
    alice = await harness.member("alice", "c1")
    await harness.publish("c1", 1)
    await harness.settle()
    await alice.subscribe("c1")
    await harness.publish("c1", 2)
    await harness.settle()
    assert harness.numbers(alice, "c1") == [1, 2]
    assert subscribed(alice, "c1") == (1, 1, True)


async def test_subscribing_again_without_a_number_loses_nothing_that_is_on_its_way(harness: Harness) -> None:
    alice = await harness.member("alice", "c1")
    gate = asyncio.Event()

    async def hold(messages: object) -> None:
        await gate.wait()

    harness.meddle(WEBSOCKET_FIFO_QUEUE, hold)
    await harness.publish_many("c1", [1, 2, 3])
    await alice.subscribe("c1")
    gate.set()
    await harness.settle()
    assert harness.numbers(alice, "c1") == [1, 2, 3]


async def test_subscribing_again_with_a_number_starts_anew_behind_what_was_due(harness: Harness) -> None:
    alice = await harness.member("alice", "c1")
    await harness.publish("c1", 1)
    await harness.processed()
    await harness.publish("c1", "plain", kind="standard")
    await harness.processed()
    await alice.subscribe("c1", last=0)
    await harness.publish("c1", 2)
    await harness.settle()
    numbers = [frame.get("sequenceNumber") for frame in alice.of_type("message", "c1")]
    assert numbers.count(None) == 1
    assert [number for number in numbers if number] == [1, 1, 2]


async def test_after_unsubscribing_nothing_of_the_chat_follows(harness: Harness) -> None:
    alice = await harness.member("alice", "c1")
    for number in (1, 2):
        await harness.publish("c1", number)
        await harness.processed()
    await alice.unsubscribe("c1")
    await harness.publish("c1", 3)
    await harness.settle()
    if "quiet_after_unsubscribed" in harness.engine.strengths:
        assert alice.frames[-1] == {"type": "unsubscribed", "chatId": "c1"}
    assert 3 not in harness.numbers(alice, "c1")
    assert harness.numbers(alice, "c1") == [1, 2]


async def test_one_sync_resumes_many_chats_and_tells_of_each_that_is_refused(harness: Harness) -> None:
    for chat in ("c1", "c2"):
        await harness.grant("alice", chat, "member")
        await harness.publish_many(chat, [1, 2])
    alice = await harness.connect("alice")
    chats = {"c1": 1, "secret": 0, "c2": None}
    await harness.service.connection_handler.sync(alice.connection_id, chats, None, "r1")
    kinds = [(frame["type"], frame.get("chatId"), frame.get("requestId")) for frame in alice.frames]
    assert kinds == [
        ("message", None, None),
        ("subscribed", "c1", "r1"),
        ("error", "secret", "r1"),
        ("subscribed", "c2", "r1"),
    ]
    assert alice.of_type("error")[0]["code"] == "forbidden"


# -- revoking --------------------------------------------------------------------------------------------------------


async def test_once_a_revocation_is_answered_he_publishes_and_hears_nothing_more(harness: Harness) -> None:
    """Invariant 11."""
    alice, bob = await harness.member("alice", "c1"), await harness.member("bob", "c1")
    for number in (1, 2):
        await harness.publish("c1", number)
        await harness.processed()
    fence = await harness.service.chat_permission.revoke(BACK_END, "alice", "c1")
    (answer,) = await send(harness, alice.identity, request("c1"))
    assert isinstance(answer, Refusal)
    assert answer.code == "forbidden"
    await harness.publish("c1", 3)
    await harness.settle()
    assert fence == 2
    assert harness.numbers(bob, "c1") == [1, 2, 3]
    assert max(harness.numbers(alice, "c1")) <= fence
    assert len(alice.of_type("revoked", "c1")) == 1
    if "revoke_at_once" in harness.engine.strengths:
        assert alice.frames[-1] == {"type": "revoked", "chatId": "c1"}
        assert harness.numbers(alice, "c1") == [1, 2]
    assert await refusal_of(alice.subscribe("c1", last=0)) == "forbidden"
    wanted = Range(chat_id="c1", limit=1, ascending=False)
    assert await refusal_of(harness.service.message_retrieval.retrieve(alice.identity, wanted)) == "forbidden"
    assert await harness.service.chat_permission.revoke(BACK_END, "alice", "c1") == fence


@pytest.mark.parametrize("failpoints", ["", "revoke.tombstoned=stall:10", "revoke.dropped=stall:10"])
async def test_under_load_no_number_above_the_fence_reaches_who_was_revoked(stand: Harness, failpoints: str) -> None:
    await stand.start(Options(failpoints=failpoints))
    alice = await stand.member("alice", "c1")
    second = await stand.connect("alice", "c1")
    revoked = asyncio.Event()

    async def load() -> None:
        number = 0
        while not revoked.is_set():
            await stand.publish_many("c1", [number] * 3)
            number += 1

    loading = asyncio.ensure_future(load())
    await alice.until(lambda: len(alice.of_type("message")) > 9)
    fence = await stand.clock.run(stand.service.chat_permission.revoke(BACK_END, "alice", "c1"))
    await stand.publish("c1", "later")
    revoked.set()
    await stand.clock.run(loading)
    await stand.settle()
    for client in (alice, second):
        numbers = stand.numbers(client, "c1")
        assert numbers == list(range(1, len(numbers) + 1))
        assert 9 < len(numbers) <= fence
        assert client.frames[-1]["type"] == "revoked" or "revoke_at_once" not in stand.engine.strengths


async def test_a_revocation_during_a_replay_ends_it_and_nothing_follows(harness: Harness) -> None:
    await harness.grant("alice", "c1", "member")
    await harness.publish_many("c1", list(range(20)))
    await harness.stored()
    alice = await harness.connect("alice")
    alice.stall()
    subscribing = asyncio.ensure_future(alice.subscribe("c1", last=5))
    await harness.settle()
    revoking = asyncio.ensure_future(harness.service.chat_permission.revoke(BACK_END, "alice", "c1"))
    await (harness.clock.run(revoking) if harness.holds_sockets else harness.settle())
    alice.resume()
    fence = await harness.clock.run(revoking)
    await harness.clock.run(subscribing)
    await harness.publish("c1")
    await harness.settle()
    if "revoke_at_once" in harness.engine.strengths:
        assert [frame["type"] for frame in alice.frames] == ["revoked"]
    else:  # the slice that was under way may come, too
        assert (len(alice.of_type("revoked")), alice.of_type("subscribed")) == (1, [])
        assert fence == 20
        assert harness.numbers(alice, "c1") in ([], list(range(6, 21)))


async def test_who_is_granted_again_hears_again(harness: Harness) -> None:
    alice = await harness.member("alice", "c1")
    await harness.publish("c1", 1)
    await harness.settle()
    await harness.service.chat_permission.revoke(BACK_END, "alice", "c1")
    await harness.publish("c1", 2)
    await harness.settle()
    await harness.grant("alice", "c1", "reader")
    await alice.subscribe("c1", last=1)
    await harness.publish("c1", 3)
    await harness.settle()
    assert harness.numbers(alice, "c1") == [1, 2, 3]


@pytest.mark.parametrize("failpoint", ["revoke.tombstoned", "revoke.dropped"])
async def test_a_revocation_that_failed_half_way_is_completed_by_its_repetition(stand: Harness, failpoint: str) -> None:
    await stand.start(Options(failpoints=f"{failpoint}=raise@1"))
    alice = await stand.member("alice", "c1")
    await stand.publish("c1", 1)
    await stand.settle()
    with pytest.raises(Exception, match=failpoint):
        await stand.service.chat_permission.revoke(BACK_END, "alice", "c1")
    assert await refusal_of(stand.service.a2p_publisher.publish(alice.identity, request("c1"), None)) == "forbidden"
    assert await stand.service.chat_permission.revoke(BACK_END, "alice", "c1") == 1
    await stand.publish("c1", 2)
    await stand.settle()
    assert stand.numbers(alice, "c1") == [1]


# -- credentials -----------------------------------------------------------------------------------------------------


async def test_who_is_about_to_lose_his_token_is_told_and_then_closed(harness: Harness) -> None:
    leeway = 30_000
    ends = harness.clock.now() + 4 * 60_000 + leeway
    alice = await harness.connect(identity("alice", expires_at=ends))
    await alice.until(lambda: bool(alice.of_type("tokenExpiring")), step=0.2)
    left = ends - leeway - harness.clock.now()
    assert alice.of_type("tokenExpiring") == [{"type": "tokenExpiring", "expiresIn": pytest.approx(left / 1000, abs=2)}]
    assert 55_000 <= left <= 120_000
    await alice.until(lambda: alice.closed is not None, step=0.2)
    assert alice.closed is not None
    if "close_codes" in harness.engine.strengths:
        assert alice.closed[0] == CloseCode.UNAUTHORIZED
    else:
        assert (alice.frames[-1]["code"], alice.frames[-1]["close"]) == ("token_expired", CloseCode.UNAUTHORIZED)
    assert 0 <= harness.clock.now() - ends <= 60_000
    await harness.settle()
    assert await harness.engine.connections.get(alice.connection_id) is None


async def test_a_new_token_of_the_same_user_keeps_the_connection(harness: Harness) -> None:
    now = harness.clock.now()
    alice = await harness.connect(identity("alice", expires_at=now + 100_000, chat_ids=["c1"]))
    handler = harness.service.connection_handler
    token = harness.files.mint("alice", ["messages:read"], 3600, now)
    fresh = await handler.refresh_token(alice.connection_id, alice.identity, token, "r1")
    assert fresh.chat_ids == frozenset(["c1"])
    assert fresh.scopes == frozenset(["messages:read"])
    assert alice.frames == [{"type": "ack", "requestId": "r1"}]
    harness.clock.advance(200)
    await harness.settle()
    assert alice.closed is None
    foreign = harness.files.mint("mallory", [], 3600, now)
    assert await refusal_of(handler.refresh_token(alice.connection_id, fresh, foreign, None)) == "forbidden"
    assert await refusal_of(handler.refresh_token(alice.connection_id, fresh, "nonsense", None)) == "invalid_token"


async def test_a_ticket_brings_its_maker_in_once(harness: Harness) -> None:
    await harness.grant("alice", "c1", "member")
    ticket = await harness.service.chat_permission.offer_ticket(identity("alice"), frozenset(["c1"]))
    authorize = harness.service.websocket_authorizer.authorize
    wanted = ConnectRequest(ticket=ticket, chat_ids=("c1",), last_sequence="0")
    authorization = await authorize(wanted)
    assert (authorization.identity.user_id, authorization.last_sequence) == ("alice", 0)
    assert await refusal_of(authorize(wanted)) == "invalid_ticket"
    client = await harness.connect(authorization.identity, *authorization.chat_ids)
    await harness.publish("c1")
    await harness.settle()
    assert harness.numbers(client, "c1") == [1]


# -- keeping ---------------------------------------------------------------------------------------------------------


async def test_messages_are_kept_for_their_time_and_then_deleted(stand: Harness) -> None:
    """Invariant 14."""
    await stand.start(Options(retention=60_000))
    await stand.publish_many("c1", [1, 2, 3])
    await stand.settle()
    assert len(await stand.history("c1")) == 3

    async def deleted() -> None:
        while (await stand.engine.messages.by_number("c1", 1, 3, 3)).bodies:
            await stand.clock.sleep(1)

    await stand.clock.run(deleted(), step=1)
    await stand.publish("c1", 4)
    reader = await stand.connect(BACK_END)
    await reader.subscribe("c1", last=0)
    assert (gaps(reader, "c1"), stand.numbers(reader, "c1")) == ([(1, 3)], [4])
    assert await stand.numbered("c1") == [4]


async def test_in_a_chat_timestamps_ascend_with_numbers_even_if_the_clock_is_set_back(harness: Harness) -> None:
    """Invariant 15."""
    for number in range(6):
        harness.clock.jump(-3_600_000 if number % 2 else 60_000)
        await send(harness, BACK_END, request("c1", number))
        if number == 3:
            await harness.settle()
            await harness.restart()
    stamps = [(row["timestamp"], row["messageId"]) for row in await harness.history("c1")]
    assert len(set(stamps)) == 6
    if "time_follows_number" in harness.engine.strengths:
        assert stamps == sorted(stamps)
    assert await harness.numbered("c1") == [1, 2, 3, 4, 5, 6]
