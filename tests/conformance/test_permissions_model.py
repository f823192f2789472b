"""Permissions against a model of docs/permissions.md: who may grant and remove what; no chat loses its last owner."""

from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from tests.conformance.examples import EngineMachine, Make, run_machine
from tests.conformance.harness import BACK_END, identity
from tocsin.bus import Consumer
from tocsin.errors import Refusal
from tocsin.identity import Identity
from tocsin.roles import Role
from tocsin.topology import Queue

USERS: Final = ["alice", "bob", "carol"]
CHATS: Final = ["c1", "c2"]
ROLES: Final[list[Role]] = ["reader", "member", "admin", "owner"]
ACTORS: Final = [*map(identity, USERS), BACK_END]

actors, users = st.sampled_from(ACTORS), st.sampled_from(USERS)
chats, roles = st.sampled_from(CHATS), st.sampled_from(ROLES)


class PermissionsMachine(EngineMachine):
    def __init__(self) -> None:
        #: (chat, user) -> role, None: revoked.
        self.rows: dict[tuple[str, str], Role | None] = {}
        self.fences: dict[tuple[str, str], int | None] = {}
        super().__init__()

    def consumers(self) -> dict[Queue, Consumer]:
        return {}

    # The rules, in words of their own

    def rank(self, chat_id: str, user_id: str) -> int:
        role = self.rows.get((chat_id, user_id))
        return 0 if role is None else ROLES.index(role) + 1

    def leads(self, actor: Identity, chat_id: str, *, at_least: int) -> bool:
        """Owners and admins, up to their own role; services anywhere."""
        rank = self.rank(chat_id, actor.user_id)
        return actor is BACK_END or (rank >= 3 and rank >= at_least)

    def is_last_owner(self, chat_id: str, user_id: str) -> bool:
        owners = [user for (chat, user), role in self.rows.items() if chat == chat_id and role == "owner"]
        return owners == [user_id]

    # What is done

    @rule(actor=actors, user_id=users, chat_id=chats, role=roles)
    def grant(self, actor: Identity, user_id: str, chat_id: str, role: Role) -> None:
        allowed = self.leads(actor, chat_id, at_least=max(ROLES.index(role) + 1, self.rank(chat_id, user_id)))
        expected = "granted"
        if not allowed:
            expected = "forbidden"
        elif self.is_last_owner(chat_id, user_id) and role != "owner":
            expected = "last_owner"
        assert self.run(self._grant(actor, user_id, chat_id, role)) == expected
        if expected == "granted":
            self.rows[chat_id, user_id] = role

    async def _grant(self, actor: Identity, user_id: str, chat_id: str, role: Role) -> str:
        try:
            row = await self.harness.engine.permissions.grant(actor, user_id, chat_id, role, self.harness.clock.now())
        except Refusal as refusal:
            return refusal.code
        assert (row.user_id, row.chat_id, row.role) == (user_id, chat_id, role)
        return "granted"

    @rule(actor=actors, user_id=users, chat_id=chats, fence=st.one_of(st.none(), st.integers(0, 9)))
    def revoke(self, actor: Identity, user_id: str, chat_id: str, fence: int | None) -> None:
        key = (chat_id, user_id)
        expected: str | int | None = None
        if actor.user_id != user_id and not self.leads(actor, chat_id, at_least=self.rank(chat_id, user_id)):
            expected = "forbidden"
        elif key not in self.rows:
            expected = "not_found"
        elif self.is_last_owner(chat_id, user_id):
            expected = "last_owner"
        elif self.rows[key] is None:
            expected = self.fences[key]
        assert self.run(self._revoke(actor, user_id, chat_id, fence)) == expected
        if isinstance(expected, str):
            return
        self.rows[key] = None
        self.fences[key] = fence if expected is None else expected

    async def _revoke(self, actor: Identity, user_id: str, chat_id: str, fence: int | None) -> str | int | None:
        permissions = self.harness.engine.permissions
        try:
            tombstone = await permissions.revoke(actor, user_id, chat_id, self.harness.clock.now())
        except Refusal as refusal:
            return refusal.code
        if fence is not None:
            await permissions.fence(user_id, chat_id, fence)
        return tombstone.fence

    @rule(crashes=st.booleans())
    def restart(self, crashes: bool) -> None:
        self.run(self.harness.crash() if crashes else self.harness.restart())

    # What holds at every moment

    @invariant()
    def roles_are_the_models(self) -> None:
        self.run(self._roles_are_the_models())

    async def _roles_are_the_models(self) -> None:
        permissions = self.harness.engine.permissions
        pairs = [(user, chat) for user in USERS for chat in CHATS]
        assert list(await permissions.roles(pairs)) == [self.rows.get((chat, user)) for user, chat in pairs]
        for chat in CHATS:
            rows = (await permissions.of_chat(chat, after=None, limit=10)).permissions
            held = {user: role for (of, user), role in self.rows.items() if of == chat and role is not None}
            assert {row.user_id: row.role for row in rows} == held


def test_whatever_is_granted_and_revoked_the_rules_hold(make_harness: Make) -> None:
    run_machine(PermissionsMachine, make_harness)
