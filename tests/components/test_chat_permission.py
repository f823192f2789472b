"""Permission Manager: grants, revocations in their order, lists for who may see them, tickets."""

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import BACK_END, identity, refusal_of
from tocsin.components.chat_permission import ChatPermission
from tocsin.identity import Identity

ALICE, BOB, CAROL = identity("alice"), identity("bob"), identity("carol")


@pytest.fixture
async def component(harness: EmbeddedHarness) -> ChatPermission:
    """Alice owns c1, bob is a member there and owns c2."""
    for user, chat, role in (("alice", "c1", "owner"), ("bob", "c1", "member"), ("bob", "c2", "owner")):
        await harness.grant(user, chat, role)  # type: ignore[arg-type]
    return harness.service.chat_permission


async def rows(
    component: ChatPermission, actor: Identity, user_id: str | None = None, chat_id: str | None = None
) -> list[tuple[str, str]]:
    page = await component.list_permissions(actor, user_id, chat_id, after=None, limit=10)
    return [(row.user_id, row.chat_id) for row in page.permissions]


async def test_a_grant_counts_at_once_and_says_when(harness: EmbeddedHarness, component: ChatPermission) -> None:
    row = await component.grant(ALICE, "carol", "c1", "reader")
    assert (row.granted_by, row.granted_at) == ("alice", harness.clock.now())
    carol = await harness.connect("carol")
    await carol.subscribe("c1")
    assert carol.of_type("subscribed")


async def test_one_sees_ones_own_rows_and_those_of_chats_one_leads(component: ChatPermission) -> None:
    assert await rows(component, BOB, "bob") == [("bob", "c1"), ("bob", "c2")]
    assert await rows(component, ALICE, None, "c1") == [("alice", "c1"), ("bob", "c1")]
    assert await rows(component, BOB, "bob", "c1") == [("bob", "c1")]
    assert await rows(component, ALICE, "bob", "c1") == [("bob", "c1")]
    for actor, user, chat in ((ALICE, "bob", None), (BOB, None, "c1"), (BOB, "alice", "c1"), (CAROL, None, "nowhere")):
        assert await refusal_of(component.list_permissions(actor, user, chat, after=None, limit=10)) == "forbidden"


async def test_a_service_sees_everything(component: ChatPermission) -> None:
    assert await rows(component, BACK_END, "bob") == [("bob", "c1"), ("bob", "c2")]
    assert await rows(component, BACK_END, None, "c2") == [("bob", "c2")]
    assert await rows(component, BACK_END, "alice", "c2") == []


async def test_one_row_is_found_among_neighbours_whose_names_begin_alike(component: ChatPermission) -> None:
    chats = ["a", "a+", "a0", "aa", "a~", "b", "+", "~", "~~"]
    for chat in chats:
        await component.grant(BACK_END, "dave", chat, "reader")
    for chat in chats:
        assert await rows(component, BACK_END, "dave", chat) == [("dave", chat)]
    for chat in ("a1", "a~~", "a.", "|", "A"):
        assert await rows(component, BACK_END, "dave", chat) == []
    await component.revoke(BACK_END, "dave", "aa")
    assert await rows(component, BACK_END, "dave", "aa") == []


async def test_lists_come_in_pages(component: ChatPermission) -> None:
    page = await component.list_permissions(BOB, "bob", None, after=None, limit=1)
    assert page.next is not None
    rest = await component.list_permissions(BOB, "bob", None, after=page.next, limit=1)
    assert [row.chat_id for row in (*page.permissions, *rest.permissions)] == ["c1", "c2"]
    assert rest.next is None


async def test_a_revocation_tells_every_connection_that_listened_and_no_other(
    harness: EmbeddedHarness, component: ChatPermission
) -> None:
    listening, both = await harness.connect("bob", "c1"), await harness.connect("bob", "c1", "c2")
    elsewhere, alice = await harness.connect("bob", "c2"), await harness.connect("alice", "c1")
    await harness.publish("c1")
    await harness.settle()
    assert await component.revoke(ALICE, "bob", "c1") == 1
    revoked = {"type": "revoked", "chatId": "c1"}
    assert [client.frames[-1] == revoked for client in (listening, both, elsewhere, alice)] == [
        True,
        True,
        False,
        False,
    ]
    await harness.publish("c2")
    await harness.settle()
    assert harness.numbers(both, "c2") == [1]


async def test_one_may_leave_by_oneself_and_who_was_never_there_cannot(component: ChatPermission) -> None:
    assert await component.revoke(BOB, "bob", "c1") == 0
    assert await refusal_of(component.revoke(CAROL, "carol", "c1")) == "not_found"
    assert await refusal_of(component.revoke(ALICE, "alice", "c1")) == "last_owner"
    assert await refusal_of(component.revoke(CAROL, "alice", "c1")) == "forbidden"


async def test_a_repeated_revocation_has_the_first_fence(harness: EmbeddedHarness, component: ChatPermission) -> None:
    await harness.publish_many("c1", [1, 2])
    assert await component.revoke(ALICE, "bob", "c1") == 2
    await harness.publish_many("c1", [3, 4])
    for actor in (ALICE, BOB, BACK_END):
        assert await component.revoke(actor, "bob", "c1") == 2
    await component.grant(ALICE, "bob", "c1", "reader")
    assert await component.revoke(ALICE, "bob", "c1") == 4


async def test_ones_own_inbox_is_not_closed_by_a_revocation(
    harness: EmbeddedHarness, component: ChatPermission
) -> None:
    await component.grant(BACK_END, "alice", "user:alice", "member")
    await component.grant(BACK_END, "bob", "user:alice", "reader")
    alice, bob = await harness.connect("alice", "user:alice"), await harness.connect("bob", "user:alice")
    await component.revoke(BACK_END, "alice", "user:alice")
    await component.revoke(BACK_END, "bob", "user:alice")
    assert (alice.of_type("revoked"), len(bob.of_type("revoked"))) == ([], 1)
    await harness.publish("user:alice")
    await harness.settle()
    assert (len(harness.heard(alice, "user:alice")), len(harness.heard(bob, "user:alice"))) == (1, 0)


async def test_a_ticket_carries_its_maker_and_may_only_narrow(
    harness: EmbeddedHarness, component: ChatPermission
) -> None:
    redeem = harness.engine.tickets.redeem
    now = harness.clock.now()
    maker = identity("alice", "messages:read", expires_at=now + 5)
    assert await redeem(await component.offer_ticket(maker, None), now) == maker
    limited = await redeem(await component.offer_ticket(maker, frozenset(["c1", "c2"])), now)
    assert limited == identity("alice", "messages:read", expires_at=now + 5, chat_ids=["c1", "c2"])
    assert limited is not None
    again = await redeem(await component.offer_ticket(limited, frozenset(["c2", "c3"])), now)
    assert again is not None
    assert again.chat_ids == frozenset({"c2"})
    same = await redeem(await component.offer_ticket(limited, None), now)
    assert same is not None
    assert same.chat_ids == frozenset({"c1", "c2"})
