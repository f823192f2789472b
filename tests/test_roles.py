"""Who may what in a chat: every case of a small table."""

from collections.abc import Callable
from itertools import product
from typing import Final, get_args

import pytest

from tocsin.errors import Refusal
from tocsin.roles import Role, check_grant, check_owners, check_revoke, is_inbox_of, may_publish, may_read

#: Lowest first; None: no role.
ROLES: Final[list[Role | None]] = [None, "reader", "member", "admin", "owner"]
GRANTED: Final[list[Role]] = ["reader", "member", "admin", "owner"]


def level(role: Role | None) -> int:
    return ROLES.index(role)


def refusal_of(check: Callable[[], None]) -> str | None:
    try:
        check()
    except Refusal as refusal:
        return refusal.code
    return None


def test_the_table_has_every_role() -> None:
    assert list(get_args(Role))[::-1] == GRANTED == ROLES[1:]


@pytest.mark.parametrize(
    ("role", "reads", "publishes"),
    [
        (None, False, False),
        ("reader", True, False),
        ("member", True, True),
        ("admin", True, True),
        ("owner", True, True),
    ],
)
def test_readers_read_and_members_publish(role: Role | None, reads: bool, publishes: bool) -> None:
    assert (may_read("alice", "c1", role), may_publish(role)) == (reads, publishes)


def test_an_inbox_is_its_users_to_read_and_nobody_elses() -> None:
    assert is_inbox_of("alice", "user:alice")
    assert may_read("alice", "user:alice", None)
    for user, chat in (("bob", "user:alice"), ("alice", "user:alice2"), ("alice", "User:alice"), ("", "user:alice")):
        assert not may_read(user, chat, None)
    assert may_read("bob", "user:alice", "reader")


@pytest.mark.parametrize(("actor", "target", "granted"), list(product(ROLES, ROLES, GRANTED)))
def test_owners_and_admins_grant_up_to_their_own_role_and_touch_no_row_above_it(
    actor: Role | None, target: Role | None, granted: Role
) -> None:
    allowed = level(actor) >= level("admin") and level(granted) <= level(actor) and level(target) <= level(actor)
    refused = refusal_of(lambda: check_grant(actor, target, granted, service=False))
    assert refused == (None if allowed else "forbidden")
    assert refusal_of(lambda: check_grant(actor, target, granted, service=True)) is None


@pytest.mark.parametrize(("actor", "target"), list(product(ROLES, ROLES)))
def test_a_row_is_removed_from_its_own_level_or_above_by_oneself_or_by_a_service(
    actor: Role | None, target: Role | None
) -> None:
    allowed = level(actor) >= level("admin") and level(target) <= level(actor)
    refused = refusal_of(lambda: check_revoke(actor, target, service=False, oneself=False))
    assert refused == (None if allowed else "forbidden")
    assert refusal_of(lambda: check_revoke(actor, target, service=False, oneself=True)) is None
    assert refusal_of(lambda: check_revoke(actor, target, service=True, oneself=False)) is None


@pytest.mark.parametrize(("before", "after", "owners"), list(product(ROLES, ROLES, [0, 1, 2])))
def test_the_last_owner_stays_one(before: Role | None, after: Role | None, owners: int) -> None:
    would_be_last = before == "owner" and after != "owner" and owners <= 1
    assert refusal_of(lambda: check_owners(before, after, owners)) == ("last_owner" if would_be_last else None)
