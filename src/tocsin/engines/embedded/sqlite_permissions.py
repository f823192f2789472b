"""Permissions on the embedded store: decided inside the transaction, remembered in memory.

Rule: memory follows the commit: a role is written there when its transaction has come back, before anyone is
answered; what a read finds never overwrites what a commit has said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, TypeVar, cast

import apsw

from tocsin.engines.embedded.group_commit import GroupCommit, Job
from tocsin.engines.embedded.reads import Reads
from tocsin.engines.embedded.sql import QUERY
from tocsin.errors import Refusal
from tocsin.identity import Identity
from tocsin.roles import Role, check_grant, check_owners, check_revoke
from tocsin.tables import Permission, PermissionPage, Tombstone

T = TypeVar("T")

CAPACITY: Final = 500_000


class SqlitePermissions:
    def __init__(self, commits: GroupCommit, reads: Reads) -> None:
        self._commits = commits
        self._reads = reads
        self._roles: dict[tuple[str, str], Role | None] = {}

    async def roles(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Role | None]:
        roles = self._roles
        try:
            return [roles[pair] for pair in pairs]
        except KeyError:
            pass
        while missing := list({pair for pair in pairs if pair not in roles}):
            found = await self._reads.run(lambda connection: _roles(connection, missing))
            self._make_room()
            for pair, role in zip(missing, found, strict=True):
                roles.setdefault(pair, role)
        return [roles[pair] for pair in pairs]

    def _make_room(self) -> None:
        if len(self._roles) > CAPACITY:
            for pair in list(self._roles)[: CAPACITY // 2]:
                del self._roles[pair]

    async def grant(self, actor: Identity, user_id: str, chat_id: str, role: Role, now: int) -> Permission:
        def job(connection: apsw.Connection) -> Permission:
            acting, target, _ = _roles_of(connection, actor.user_id, user_id, chat_id)
            check_grant(acting, target, role, service="permissions:write" in actor.scopes)
            check_owners(target, role, _owners(connection, chat_id))
            if target == role:
                found = connection.execute(QUERY["permission"], (user_id, chat_id)).fetchone()
                assert found is not None
                return Permission(user_id=user_id, chat_id=chat_id, role=role, granted_by=found[1], granted_at=found[2])
            connection.execute(QUERY["grant"], (user_id, chat_id, role, actor.user_id, now))
            return Permission(user_id=user_id, chat_id=chat_id, role=role, granted_by=actor.user_id, granted_at=now)

        return await self._decide(job, user_id, chat_id, role)

    async def revoke(self, actor: Identity, user_id: str, chat_id: str, now: int) -> Tombstone:
        def job(connection: apsw.Connection) -> Tombstone:
            acting, target, found = _roles_of(connection, actor.user_id, user_id, chat_id)
            check_revoke(acting, target, service="permissions:write" in actor.scopes, oneself=actor.user_id == user_id)
            if found is None:
                raise Refusal("not_found", "There is no such permission.")
            check_owners(target, None, _owners(connection, chat_id))
            if target is None:
                return Tombstone(fence=found[3])
            connection.execute(QUERY["revoke"], (user_id, chat_id, now))
            return Tombstone(fence=None)

        return await self._decide(job, user_id, chat_id, None)

    async def _decide(self, job: Job[T], user_id: str, chat_id: str, role: Role | None) -> T:
        """Memory follows the commit even where the caller has gone away meanwhile."""

        def settle(done: asyncio.Future[T]) -> None:
            if done.exception() is None:
                self._remember(user_id, chat_id, role)
            else:
                self._roles.pop((user_id, chat_id), None)  # perhaps it stands: the store is asked

        done = self._commits.write(job)
        done.add_done_callback(settle)
        return await asyncio.shield(done)

    async def fence(self, user_id: str, chat_id: str, sequence: int) -> int:
        def job(connection: apsw.Connection) -> int:
            connection.execute(QUERY["fence"], (user_id, chat_id, sequence))
            found = cast("Found | None", connection.execute(QUERY["permission"], (user_id, chat_id)).fetchone())
            return sequence if found is None or found[3] is None else found[3]

        return await self._commits.write(job)

    async def of_user(self, user_id: str, *, after: str | None, limit: int) -> PermissionPage:
        return await self._page("permissions_of_user", user_id, after, limit)

    async def of_chat(self, chat_id: str, *, after: str | None, limit: int) -> PermissionPage:
        return await self._page("permissions_of_chat", chat_id, after, limit)

    async def _page(self, query: str, owner: str, after: str | None, limit: int) -> PermissionPage:
        rows = await self._reads.run(
            lambda connection: connection.execute(QUERY[query], (owner, after or "", limit + 1)).fetchall()
        )
        permissions = [
            Permission(user_id=user, chat_id=chat, role=role, granted_by=by, granted_at=at)
            for user, chat, role, by, at in cast("list[tuple[str, str, Role, str, int]]", rows[:limit])
        ]
        following = None
        if len(rows) > limit:
            following = permissions[-1].chat_id if query == "permissions_of_user" else permissions[-1].user_id
        return PermissionPage(permissions=permissions, next=following)

    def _remember(self, user_id: str, chat_id: str, role: Role | None) -> None:
        self._roles.pop((user_id, chat_id), None)
        self._roles[user_id, chat_id] = role
        self._make_room()


def _roles(connection: apsw.Connection, pairs: Sequence[tuple[str, str]]) -> list[Role | None]:
    return [cast("Role | None", connection.execute(QUERY["role"], pair).get) for pair in pairs]


Found = tuple[Role | None, str, int, int | None, int | None]


def _roles_of(
    connection: apsw.Connection, actor_id: str, user_id: str, chat_id: str
) -> tuple[Role | None, Role | None, Found | None]:
    """The actor's role, the target's, and the target's row (granted_by, granted_at, fence, revoked_at behind it)."""
    found = cast("Found | None", connection.execute(QUERY["permission"], (user_id, chat_id)).fetchone())
    acting = cast("Role | None", connection.execute(QUERY["role"], (actor_id, chat_id)).get)
    return acting, None if found is None else found[0], found


def _owners(connection: apsw.Connection, chat_id: str) -> int:
    return cast(int, connection.execute(QUERY["count_owners"], (chat_id,)).get)
