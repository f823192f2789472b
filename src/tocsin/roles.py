"""WHO MAY WHAT in a chat: the roles and the rules about them. Pure; engines apply the rules inside a transaction.

owner > admin > member (reads, publishes) > reader. `user:<userId>` is everybody's inbox: its user always reads it.
"""

from typing import Final, Literal

from tocsin.errors import Refusal, forbidden

Role = Literal["owner", "admin", "member", "reader"]

RANK: Final[dict[str, int]] = {"reader": 1, "member": 2, "admin": 3, "owner": 4}
INBOX: Final = "user:"


def may_read(user_id: str, chat_id: str, role: Role | None) -> bool:
    return role is not None or is_inbox_of(user_id, chat_id)


def may_publish(role: Role | None) -> bool:
    return role is not None and RANK[role] >= RANK["member"]


def is_inbox_of(user_id: str, chat_id: str) -> bool:
    return chat_id == INBOX + user_id


def check_grant(actor: Role | None, target: Role | None, granted: Role, *, service: bool) -> None:
    """Owners and admins grant up to their own role, and touch no row above it; a service anywhere."""
    if not service and (
        actor is None
        or RANK[actor] < RANK["admin"]
        or RANK[granted] > RANK[actor]
        or (target is not None and RANK[target] > RANK[actor])
    ):
        raise forbidden()


def check_revoke(actor: Role | None, target: Role | None, *, service: bool, oneself: bool) -> None:
    if service or oneself:
        return
    if actor is None or RANK[actor] < RANK["admin"] or (target is not None and RANK[target] > RANK[actor]):
        raise forbidden()


def check_owners(before: Role | None, after: Role | None, owners: int) -> None:
    """`owners` counts the chat's owners before the change. A chat that has owners keeps one."""
    if before == "owner" and after != "owner" and owners <= 1:
        raise Refusal("last_owner", "A chat that has owners must keep one; make somebody else owner first.")
