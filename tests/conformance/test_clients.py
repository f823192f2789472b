"""Clients: each connection hears its chats in order, in bounded memory, and costs the others nothing."""

import asyncio

import pytest

from tests.conformance.harness import Client, Harness, Options, identity, poison
from tocsin.message import Message, read_back
from tocsin.topology import WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE


async def committed(harness: Harness, chat_id: str, first: int, last: int) -> list[Message]:
    """These numbers, as a processor would hold them."""
    await harness.stored()
    page = await harness.engine.messages.by_number(chat_id, first, last, 1_000)
    return [read_back(body) for body in page.bodies]


def gaps(client: Client, chat_id: str) -> list[tuple[int | None, int | None, int]]:
    """from, to, unnumbered of each."""
    found = client.of_type("gap", chat_id)
    return [(frame.get("from"), frame.get("to"), frame.get("unnumbered", 0)) for frame in found]


def told(client: Client, chat_id: str) -> set[int]:
    """The numbers that gaps name."""
    return {number for first, last, _ in gaps(client, chat_id) if first and last for number in range(first, last + 1)}


# -- delivery --------------------------------------------------------------------------------------------------------


async def test_each_listener_hears_each_message_as_history_has_it(harness: Harness) -> None:
    listeners = [await harness.member(f"user{number}", "c1") for number in range(5)]
    await harness.publish_many("c1", ["one", "two"])
    await harness.publish("c1", "plain", kind="standard")
    await harness.settle()
    rows = [row | {"type": "message"} for row in await harness.history("c1")]
    for client in listeners:
        heard = harness.heard(client, "c1")
        assert sorted(heard, key=lambda frame: str(frame["messageId"])) == rows
        assert harness.numbers(client, "c1") == [1, 2]


async def test_a_client_hears_its_own_chats_only(harness: Harness) -> None:
    alice, bob = await harness.member("alice", "c1"), await harness.member("bob", "c2")
    await harness.publish("c1")
    await harness.publish("c2")
    await harness.settle()
    assert [len(harness.heard(alice, chat)) for chat in ("c1", "c2")] == [1, 0]
    assert [len(harness.heard(bob, chat)) for chat in ("c1", "c2")] == [0, 1]


async def test_a_message_that_is_delivered_again_is_heard_once(harness: Harness) -> None:
    client = await harness.member("alice", "c1")
    await harness.publish_many("c1", ["one", "two"])
    await harness.settle()
    messages = await committed(harness, "c1", 1, 2)
    for again in (messages, messages[:1], messages[1:]):
        await harness.engine.clients.deliver(await harness.engine.connections.audience(["c1"]), again)
    await harness.settle()
    assert harness.numbers(client, "c1") == [1, 2]
    if "no_repeat" in harness.engine.strengths:
        assert len(client.of_type("message")) == 2


@pytest.mark.parametrize("kind", ["fifo", "standard"])
async def test_a_message_that_is_tried_again_after_it_was_delivered_is_heard_once(harness: Harness, kind: str) -> None:
    """The processor fails behind the delivery."""
    await harness.restart(Options(failpoints="processor.done=raise@1"))
    client = await harness.member("alice", "c1")
    await harness.publish("c1", kind=kind)  # type: ignore[arg-type]
    await harness.publish("c1", kind=kind)  # type: ignore[arg-type]
    await harness.settle()
    assert len(harness.heard(client, "c1")) == 2
    assert await harness.dead_letters() == []


@pytest.mark.parametrize("kind", ["fifo", "standard"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
async def test_a_delivery_that_broke_off_is_taken_up_where_it_was(stand: Harness, kind: str, nth: int) -> None:
    await stand.start(Options(failpoints=f"processor.mid_fanout=raise@{nth}"))
    listeners = {chat: await stand.member(f"listener of {chat}", chat) for chat in ("c1", "c2", "c3")}
    chats = ["c1", "c1", "c2", "c3"]
    await stand.engine.bus.publish(
        [stand.publication(chat, index, kind=kind) for index, chat in enumerate(chats)]  # type: ignore[arg-type]
    )
    await stand.settle()
    heard = {
        chat: [frame["payload"]["content"] for frame in stand.heard(client, chat)] for chat, client in listeners.items()
    }
    if kind == "standard":
        heard["c1"].sort()
    assert heard == {"c1": [0, 1], "c2": [2], "c3": [3]}


async def test_a_gone_client_is_forgotten_and_the_others_still_hear(harness: Harness) -> None:
    gone, stays = await harness.member("alice", "c1"), await harness.member("bob", "c1")
    await harness.lose(gone)
    await harness.publish("c1")
    await harness.settle()
    assert harness.numbers(stays, "c1") == [1]
    assert harness.heard(gone, "c1") == []
    assert await harness.engine.connections.get(gone.connection_id) is None


# -- one connection --------------------------------------------------------------------------------------------------


async def test_what_is_sent_comes_in_order_and_behind_what_was_delivered(harness: Harness) -> None:
    client = await harness.member("alice", "c1")
    await harness.publish("c1")
    await harness.settle()
    clients = harness.engine.clients
    assert await clients.send(client.connection_id, [b'{"type":"x","n":1}', b'{"type":"x","n":2}'])
    assert await clients.send(client.connection_id, [b'{"type":"x","n":3}'])
    assert [frame["type"] for frame in client.frames] == ["subscribed", "message", "x", "x", "x"]
    assert [frame["n"] for frame in client.of_type("x")] == [1, 2, 3]


async def test_nothing_can_be_sent_to_who_is_gone(harness: Harness) -> None:
    client = await harness.connect("alice")
    await harness.lose(client)
    clients = harness.engine.clients
    for name in (client.connection_id, "unknown"):
        assert not await clients.send(name, [b"{}"])
        assert not await clients.drained(name)
        assert not await clients.disconnect(name, 1000)
    assert client.frames == []


async def test_a_disconnected_client_is_closed_with_the_code_and_forgotten(harness: Harness) -> None:
    client = await harness.member("alice", "c1")
    for number in (1, 2):
        await harness.publish("c1", number)
        await harness.processed()
    assert await harness.engine.clients.disconnect(client.connection_id, 4401, "token expired")
    assert client.closed is not None
    if "close_codes" in harness.engine.strengths:
        assert client.closed == (4401, "token expired")
    else:
        assert (client.frames[-1]["type"], client.frames[-1]["close"]) == ("error", 4401)
    assert await harness.engine.connections.get(client.connection_id) is None
    assert list(await harness.engine.connections.audience(["c1"])) == []
    heard = harness.numbers(client, "c1")
    assert heard == [1, 2]
    await harness.publish("c1")
    await harness.settle()
    assert harness.numbers(client, "c1") == heard


# -- dead letters ----------------------------------------------------------------------------------------------------


async def test_listeners_are_told_of_a_numbered_message_that_died(harness: Harness) -> None:
    end = harness.meddle(WEBSOCKET_FIFO_QUEUE, poison("poison"))
    client = await harness.member("alice", "c1")
    await harness.publish_many("c1", ["one", "poison", "poison too", "four"])
    await harness.settle()
    assert harness.numbers(client, "c1") == [1, 4]
    assert told(client, "c1") == {2, 3}
    end()
    letters = await harness.dead_letters()
    assert await harness.engine.bus.replay([letter.letter_id for letter in letters]) == 2
    await harness.settle()
    assert harness.numbers(client, "c1") == [1, 4]  # it has passed them, and can fetch them
    assert await harness.numbered("c1") == [1, 2, 3, 4]


async def test_who_has_read_from_history_what_then_died_is_told_of_nothing(harness: Harness) -> None:
    harness.meddle(WEBSOCKET_FIFO_QUEUE, poison("poison"))
    before = await harness.member("bob", "c1")
    await harness.publish_many("c1", ["poison", "two", "three"])
    after = await harness.connect(identity("alice", "messages:read"))
    await after.subscribe("c1", last=0)
    await harness.publish("c1", "four")
    await harness.settle()
    assert (harness.numbers(before, "c1"), gaps(before, "c1")) == ([2, 3, 4], [(1, 1, 0)])
    if "history_at_once" in harness.engine.strengths:
        assert (harness.numbers(after, "c1"), gaps(after, "c1")) == ([1, 2, 3, 4], [])
    else:  # it hangs on whether the number was committed when it subscribed
        assert sorted([*harness.numbers(after, "c1"), *told(after, "c1")]) == [1, 2, 3, 4]


async def test_listeners_are_told_of_a_plain_message_that_died(harness: Harness) -> None:
    harness.meddle(WEBSOCKET_STANDARD_QUEUE, poison("poison"))
    client = await harness.member("alice", "c1")
    await harness.publish("c1", "one", kind="standard")
    await harness.publish("c1", "poison", kind="standard")
    await harness.settle()
    assert len(harness.heard(client, "c1")) == 1
    assert gaps(client, "c1") == [(None, None, 1)]


async def test_a_dead_letter_is_replayed_to_those_who_have_not_passed_it(harness: Harness) -> None:
    end = harness.meddle(WEBSOCKET_FIFO_QUEUE, poison("poison"))
    await harness.publish("c1", "poison")
    await harness.settle()
    end()
    client = await harness.member("alice", "c1")
    (letter,) = await harness.dead_letters()
    await harness.engine.bus.replay([letter.letter_id])
    await harness.publish("c1", "two")
    await harness.settle()
    assert harness.numbers(client, "c1") in ([2], [1, 2])


# -- slow readers ----------------------------------------------------------------------------------------------------


async def test_a_client_that_reads_too_slowly_is_told_what_it_missed_and_goes_on(harness: Harness) -> None:
    slow, quick = await harness.member("alice", "c1"), await harness.member("bob", "c1")
    await harness.publish("c1", 1)
    await harness.settle()
    slow.stall()
    await harness.publish_many("c1", [2, 3])
    await harness.publish("c1", "plain", kind="standard")
    await harness.settle()
    assert slow.written_while_stalled == []
    slow.resume()
    await harness.publish("c1", 4)
    await harness.settle()
    assert harness.numbers(quick, "c1") == [1, 2, 3, 4]
    assert harness.numbers(slow, "c1") == [1, 4]
    assert gaps(slow, "c1") == [(2, 3, 1)]
    kinds = [frame["type"] for frame in slow.frames]
    assert kinds == ["subscribed", "message", "gap", "message"]


async def test_a_slow_client_that_missed_nothing_is_told_nothing(harness: Harness) -> None:
    client = await harness.member("alice", "c1")
    client.stall()
    client.resume()
    await harness.publish("c1")
    client.resume()
    await harness.settle()
    assert gaps(client, "c1") == []
    assert harness.numbers(client, "c1") == [1]


async def test_the_very_write_that_was_too_much_is_not_counted_as_missed(harness: Harness) -> None:
    client = await harness.member("alice", "c1")
    client.stall_after = 1
    await harness.publish("c1", 1)
    await harness.settle()
    assert client.is_stalled
    await harness.publish("c1", 2)
    await harness.settle()
    client.resume()
    await harness.told()
    assert harness.numbers(client, "c1") == [1]
    assert gaps(client, "c1") == [(2, 2, 0)]


async def test_one_that_listens_to_several_chats_is_told_for_each(harness: Harness) -> None:
    for chat in ("c1", "c2", "c3"):
        await harness.grant("alice", chat, "member")
    client = await harness.connect("alice", "c1", "c2", "c3")
    client.stall()
    await harness.publish("c1")
    await harness.publish("c3", kind="standard")
    await harness.settle()
    client.resume()
    await harness.told()
    assert [gaps(client, chat) for chat in ("c1", "c2", "c3")] == [[(1, 1, 0)], [], [(None, None, 1)]]


async def test_one_that_stalls_again_while_it_is_told_is_told_the_rest_later(harness: Harness) -> None:
    chats = [f"c{number}" for number in range(4)]
    for chat in chats:
        await harness.grant("alice", chat, "member")
    client = await harness.connect("alice", *chats)
    client.stall()
    for chat in chats:
        await harness.publish(chat, kind="standard")
        await harness.publish(chat)
    await harness.settle()
    client.stall_after = 1
    client.resume()
    await harness.told()
    assert client.is_stalled
    for chat in chats:
        await harness.publish(chat)
    await harness.settle()
    client.resume()
    await harness.told()
    assert client.written_while_stalled == []
    for chat in chats:
        missed = sum(unnumbered for _, _, unnumbered in gaps(client, chat))
        assert (told(client, chat), missed) == ({1, 2}, 1)


async def test_who_leaves_while_he_is_slow_is_told_first_what_he_missed(harness: Harness) -> None:
    client = await harness.member("alice", "c1")
    client.stall()
    await harness.publish_many("c1", [1, 2])
    await harness.settle()
    leaving = asyncio.ensure_future(client.unsubscribe("c1"))
    await harness.settle()
    client.resume()
    await harness.clock.run(leaving)
    await harness.publish("c1", 3)
    await harness.settle()
    assert [frame["type"] for frame in client.frames] == ["subscribed", "gap", "unsubscribed"]
    assert told(client, "c1") == {1, 2}


async def test_answers_are_never_dropped(harness: Harness) -> None:
    client = await harness.member("alice", "c1")
    client.stall()
    sending = asyncio.ensure_future(harness.engine.clients.send(client.connection_id, [b'{"type":"ack"}']))
    await harness.settle()
    client.resume()
    assert await harness.clock.run(sending)
    assert [frame["type"] for frame in client.frames] == ["subscribed", "ack"]


async def test_a_replay_waits_until_the_client_reads_on(harness: Harness) -> None:
    await harness.publish_many("c1", list(range(1, 6)))
    await harness.grant("alice", "c1", "member")
    client = await harness.connect("alice")
    client.stall()
    subscribing = asyncio.ensure_future(client.subscribe("c1", last=0))
    await harness.settle()
    assert client.of_type("message") == []
    await harness.publish("c1", "plain", kind="standard")
    await harness.publish("c1", 6)
    await harness.settle()
    client.resume()
    if not await harness.went_through(subscribing):
        await client.subscribe("c1", last=0)
    await harness.settle()
    assert harness.numbers(client, "c1") == [1, 2, 3, 4, 5, 6]
    if harness.holds_sockets:
        assert gaps(client, "c1") == [(None, None, 1)]


async def test_a_replay_ends_with_its_connection(harness: Harness) -> None:
    await harness.publish_many("c1", list(range(1, 6)))
    await harness.grant("alice", "c1", "member")
    client = await harness.connect("alice")
    client.stall()
    subscribing = asyncio.ensure_future(client.subscribe("c1", last=0))
    await harness.settle()
    await harness.lose(client)
    client.resume()
    await harness.went_through(subscribing)
    assert client.of_type("message") == []


async def test_who_subscribes_while_he_is_slow_is_told_only_what_came_since(harness: Harness) -> None:
    await harness.member("bob", "c1")
    for number in range(3):
        await harness.publish("c1", number, kind="standard")
        await harness.publish("c1", number)
    await harness.settle()
    await harness.grant("alice", "c1", "member")
    client = await harness.connect("alice")
    client.stall()
    if not await harness.went_through(client.subscribe("c1")):
        client.resume()
        await client.subscribe("c1")
        client.stall()
    await harness.publish("c1", "plain", kind="standard")
    await harness.publish("c1", "four")
    await harness.settle()
    client.resume()
    await harness.told()
    assert gaps(client, "c1") == [(4, 4, 1)]
