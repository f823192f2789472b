"""Permissions: who may what in a chat, decided and counted in one transaction. (The rules: tests/test_roles.py.)"""

import asyncio

import pytest

from tests.conformance.harness import BACK_END, Harness, identity, refusal_of
from tocsin.errors import Refusal
from tocsin.roles import Role
from tocsin.tables import Permission, Permissions, Tombstone

ALICE, BOB, CAROL = identity("alice"), identity("bob"), identity("carol")


@pytest.fixture
def permissions(bare: Harness) -> Permissions:
    return bare.engine.permissions


async def role(permissions: Permissions, user_id: str, chat_id: str = "c1") -> Role | None:
    (found,) = await permissions.roles([(user_id, chat_id)])
    return found


async def test_a_grant_is_a_row_that_says_who_what_and_when(permissions: Permissions) -> None:
    row = await permissions.grant(BACK_END, "alice", "c1", "owner", 1_000)
    expected = Permission(user_id="alice", chat_id="c1", role="owner", granted_by="back-end", granted_at=1_000)
    assert row == expected
    page = await permissions.of_user("alice", after=None, limit=10)
    assert (list(page.permissions), page.next) == ([expected], None)


async def test_the_same_grant_again_is_the_same_row(permissions: Permissions) -> None:
    first = await permissions.grant(BACK_END, "alice", "c1", "owner", 1_000)
    await permissions.grant(ALICE, "bob", "c1", "owner", 1_500)
    assert await permissions.grant(BOB, "alice", "c1", "owner", 2_000) == first


async def test_another_role_replaces_the_first(permissions: Permissions) -> None:
    await permissions.grant(BACK_END, "alice", "c1", "reader", 1_000)
    row = await permissions.grant(BACK_END, "alice", "c1", "admin", 2_000)
    assert (row.role, row.granted_at) == ("admin", 2_000)
    assert await role(permissions, "alice") == "admin"


async def test_roles_are_asked_for_in_batches_and_are_those_of_now(permissions: Permissions) -> None:
    await permissions.grant(BACK_END, "alice", "c1", "owner", 1)
    await permissions.grant(BACK_END, "alice", "c2", "reader", 1)
    pairs = [("alice", "c1"), ("bob", "c1"), ("alice", "c2"), ("alice", "c1"), ("alice", "c3")]
    assert await permissions.roles(pairs) == ["owner", None, "reader", "owner", None]
    await permissions.grant(ALICE, "bob", "c1", "member", 2)
    await permissions.revoke(BACK_END, "alice", "c2", 3)
    assert await permissions.roles(pairs) == ["owner", "member", None, "owner", None]
    assert await permissions.roles([]) == []


async def test_a_first_owner_comes_from_the_back_end_and_from_nobody_else(permissions: Permissions) -> None:
    assert await refusal_of(permissions.grant(ALICE, "alice", "c1", "owner", 1)) == "forbidden"
    assert await refusal_of(permissions.grant(ALICE, "alice", "c1", "reader", 1)) == "forbidden"
    assert await refusal_of(permissions.grant(identity("x", "publish:any"), "alice", "c1", "reader", 1)) == "forbidden"
    await permissions.grant(BACK_END, "alice", "c1", "owner", 1)
    await permissions.grant(ALICE, "bob", "c1", "admin", 1)
    assert await refusal_of(permissions.grant(BOB, "carol", "c1", "owner", 1)) == "forbidden"
    assert await refusal_of(permissions.grant(BOB, "alice", "c1", "member", 1)) == "forbidden"
    assert await refusal_of(permissions.grant(BOB, "carol", "c2", "reader", 1)) == "forbidden"


async def test_a_chat_that_has_owners_keeps_one(permissions: Permissions) -> None:
    await permissions.grant(BACK_END, "alice", "c1", "owner", 1)
    for actor in (ALICE, BACK_END):
        assert await refusal_of(permissions.revoke(actor, "alice", "c1", 2)) == "last_owner"
        assert await refusal_of(permissions.grant(actor, "alice", "c1", "admin", 2)) == "last_owner"
    await permissions.grant(ALICE, "bob", "c1", "owner", 3)
    await permissions.grant(ALICE, "alice", "c1", "reader", 4)
    assert await role(permissions, "alice") == "reader"
    assert await refusal_of(permissions.revoke(BOB, "bob", "c1", 5)) == "last_owner"


async def test_of_two_owners_who_leave_at_once_one_stays(permissions: Permissions) -> None:
    """Invariant 18."""
    for number in range(5):
        chat = f"c{number}"
        for user in ("alice", "bob"):
            await permissions.grant(BACK_END, user, chat, "owner", 1)
        outcomes = await asyncio.gather(
            permissions.revoke(ALICE, "alice", chat, 2),
            permissions.revoke(BOB, "bob", chat, 2),
            return_exceptions=True,
        )
        codes = sorted(outcome.code if isinstance(outcome, Refusal) else "done" for outcome in outcomes)
        assert codes == ["done", "last_owner"]
        assert [await role(permissions, user, chat) for user in ("alice", "bob")].count("owner") == 1


async def test_a_revocation_leaves_a_tombstone_that_keeps_the_first_fence(permissions: Permissions) -> None:
    await permissions.grant(BACK_END, "alice", "c1", "owner", 1)
    await permissions.grant(ALICE, "bob", "c1", "member", 1)
    assert await permissions.revoke(ALICE, "bob", "c1", 2) == Tombstone(fence=None)
    assert await role(permissions, "bob") is None
    await permissions.fence("bob", "c1", 7)
    assert await permissions.revoke(ALICE, "bob", "c1", 3) == Tombstone(fence=7)
    await permissions.fence("bob", "c1", 9)
    assert await permissions.revoke(BOB, "bob", "c1", 4) == Tombstone(fence=7)


async def test_a_revocation_that_was_cut_short_can_be_gone_through_again(bare: Harness) -> None:
    permissions = bare.engine.permissions
    await permissions.grant(BACK_END, "bob", "c1", "member", 1)
    await permissions.revoke(BACK_END, "bob", "c1", 2)
    await bare.crash()
    permissions = bare.engine.permissions
    assert await role(permissions, "bob") is None
    assert await permissions.revoke(BACK_END, "bob", "c1", 3) == Tombstone(fence=None)


async def test_a_new_grant_ends_the_tombstone(permissions: Permissions) -> None:
    await permissions.grant(BACK_END, "bob", "c1", "member", 1)
    await permissions.revoke(BACK_END, "bob", "c1", 2)
    await permissions.fence("bob", "c1", 7)
    await permissions.grant(BACK_END, "bob", "c1", "reader", 3)
    await permissions.fence("bob", "c1", 8)
    assert await role(permissions, "bob") == "reader"
    assert await permissions.revoke(BACK_END, "bob", "c1", 4) == Tombstone(fence=None)


async def test_what_was_never_granted_is_not_found_by_who_may_know(permissions: Permissions) -> None:
    assert await refusal_of(permissions.revoke(BACK_END, "bob", "c1", 1)) == "not_found"
    assert await refusal_of(permissions.revoke(BOB, "bob", "c1", 1)) == "not_found"
    assert await refusal_of(permissions.revoke(ALICE, "bob", "c1", 1)) == "forbidden"


async def test_a_user_may_leave_and_may_be_removed_from_above_only(permissions: Permissions) -> None:
    for user, given in (("alice", "owner"), ("bob", "admin"), ("carol", "member"), ("dave", "reader")):
        await permissions.grant(BACK_END, user, "c1", given, 1)  # type: ignore[arg-type]
    assert await refusal_of(permissions.revoke(BOB, "alice", "c1", 2)) == "forbidden"
    assert await refusal_of(permissions.revoke(CAROL, "dave", "c1", 2)) == "forbidden"
    await permissions.revoke(CAROL, "carol", "c1", 2)
    await permissions.revoke(BOB, "dave", "c1", 2)
    await permissions.revoke(ALICE, "bob", "c1", 2)
    page = await permissions.of_chat("c1", after=None, limit=10)
    assert [row.user_id for row in page.permissions] == ["alice"]


async def test_rows_come_in_pages_without_tombstones(permissions: Permissions) -> None:
    for number in range(7):
        await permissions.grant(BACK_END, "alice", f"c{number}", "member", 1)
        await permissions.grant(BACK_END, f"user{number}", "c0", "member", 1)
    await permissions.revoke(BACK_END, "alice", "c3", 2)
    await permissions.revoke(BACK_END, "user3", "c0", 2)
    chats: list[str] = []
    users: list[str] = []
    after = None
    while True:
        page = await permissions.of_user("alice", after=after, limit=2)
        chats += [row.chat_id for row in page.permissions]
        if (after := page.next) is None:
            break
    while True:
        page = await permissions.of_chat("c0", after=after, limit=3)
        users += [row.user_id for row in page.permissions]
        if (after := page.next) is None:
            break
    assert chats == ["c0", "c1", "c2", "c4", "c5", "c6"]
    assert sorted(users) == ["alice", "user0", "user1", "user2", "user4", "user5", "user6"]
    assert users == sorted(users)


async def test_a_page_that_ends_with_the_last_row_says_so(permissions: Permissions) -> None:
    for number in range(4):
        await permissions.grant(BACK_END, "alice", f"c{number}", "member", 1)
    assert (await permissions.of_user("alice", after=None, limit=4)).next is None
    assert (await permissions.of_user("alice", after="c1", limit=2)).next is None
    assert (await permissions.of_user("nobody", after=None, limit=4)).permissions == []


@pytest.mark.parametrize("life", ["stop", "crash"])
async def test_roles_outlive_a_restart(bare: Harness, life: str) -> None:
    await bare.grant("alice", "c1", "owner")
    await bare.grant("bob", "c1", "member")
    await bare.engine.permissions.revoke(BACK_END, "bob", "c1", 2)
    await bare.engine.permissions.fence("bob", "c1", 5)
    await (bare.restart() if life == "stop" else bare.crash())
    permissions = bare.engine.permissions
    assert await permissions.roles([("alice", "c1"), ("bob", "c1")]) == ["owner", None]
    assert await permissions.revoke(BACK_END, "bob", "c1", 3) == Tombstone(fence=5)


async def test_a_decision_stands_even_if_its_caller_has_gone_away(permissions: Permissions) -> None:
    await permissions.grant(BACK_END, "bob", "c1", "member", 1)
    assert await role(permissions, "bob") == "member"
    revoking = asyncio.ensure_future(permissions.revoke(BACK_END, "bob", "c1", 2))
    await asyncio.sleep(0)
    revoking.cancel()
    await asyncio.gather(revoking, return_exceptions=True)
    await permissions.grant(BACK_END, "carol", "c1", "member", 3)  # later than the revocation in any case
    rows = (await permissions.of_chat("c1", after=None, limit=10)).permissions
    assert (await role(permissions, "bob") is None) == ("bob" not in [row.user_id for row in rows])
