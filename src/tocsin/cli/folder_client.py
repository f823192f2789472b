"""A folder that no service holds: its engine is opened for the moment of one command, and the components asked.

    method -> the component that REST would ask -> EmbeddedEngine -> the folder

Rules:
- the engine holds the folder meanwhile, as a service would: a second process is refused;
- what was accepted and not yet processed is processed (nobody is connected to hear it), as at any start;
- nothing expires here; what is older than TOCSIN_RETENTION, or 30 days, is not shown.
"""

import asyncio
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, cast

import structlog
from msgspec.structs import replace

from tocsin.cli.client import LARGEST_PAGE, Grant, Letter, Revocation, Wanted
from tocsin.cli.failure import Failure, Refused
from tocsin.cli.printing import say
from tocsin.components.message_retrieval import Range
from tocsin.engines.embedded.data_folder import FolderError
from tocsin.engines.embedded.engine import EmbeddedEngine, EmbeddedSettings
from tocsin.engines.file_keys import RULES, FileKeys
from tocsin.errors import Refusal
from tocsin.identity import SCOPES, Identity, Keys, KeysUnusable, TokenCheck
from tocsin.message import parse_rfc3339, rfc3339
from tocsin.roles import Role
from tocsin.service import Service
from tocsin.tables import Permission
from tocsin.topology import QUEUES

T = TypeVar("T")

#: Who opens the folder may do everything; this is what `grantedBy` says then.
OWNER: Final = Identity(user_id="admin", scopes=SCOPES, expires_at=1 << 62)


class FolderClient:
    """`Administration` on a folder; a context, which holds the folder."""

    def __init__(self, data: Path, *, retention: int | None) -> None:
        """`retention` in milliseconds, where the service's is known."""
        settings = EmbeddedSettings(data=data)
        self._settings: Final = settings if retention is None else replace(settings, retention=retention)

    def __enter__(self) -> Self:
        # A warning of the engine's must not stand among the answers.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        self._runner = asyncio.Runner()
        try:
            self._engine, self._service = self._runner.run(_open(self._settings))
        except (FolderError, KeysUnusable) as error:
            self._runner.close()
            raise Failure(str(error)) from error
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._runner.run(self._engine.stop())
        finally:
            self._runner.close()

    def _run(self, asked: Coroutine[None, None, T]) -> T:
        try:
            return self._runner.run(asked)
        except Refusal as refusal:
            raise Refused(refusal.code, refusal.message, field=refusal.field) from refusal

    # -- Client --------------------------------------------------------------------------------------------------------

    def history(self, wanted: Wanted) -> Iterator[bytes]:
        after = None
        while True:
            page = self._run(self._service.message_retrieval.retrieve(OWNER, _range(wanted, after))).page
            yield from page.bodies
            if (after := page.next) is None:
                return

    def grant(self, user_id: str, chat_id: str, role: str) -> Grant:
        return _grant(self._run(self._service.chat_permission.grant(OWNER, user_id, chat_id, cast(Role, role))))

    def revoke(self, user_id: str, chat_id: str) -> Revocation:
        fence = self._run(self._service.chat_permission.revoke(OWNER, user_id, chat_id))
        return Revocation(user_id=user_id, chat_id=chat_id, fence_sequence=fence)

    def permissions(self, user_id: str | None, chat_id: str | None) -> Iterator[Grant]:
        after = None
        while True:
            page = self._run(
                self._service.chat_permission.list_permissions(OWNER, user_id, chat_id, after=after, limit=LARGEST_PAGE)
            )
            yield from map(_grant, page.permissions)
            if (after := page.next) is None:
                return

    # -- Administration ------------------------------------------------------------------------------------------------

    def dead_letters(self, queue: str | None, limit: int) -> Sequence[Letter]:
        named = next((each for each in QUEUES if queue in (each.name, each.dead_letters)), None)
        return [Letter.of(found) for found in self._run(self._engine.bus.dead_letters(named, limit=limit))]

    def dead_letter(self, letter_id: str) -> Letter:
        for found in self._run(self._engine.bus.dead_letters(letter_id=letter_id)):
            return Letter.of(found)
        raise Refused("not_found", "There is no such dead letter.")

    def replay(self, letter_ids: Sequence[str] | None) -> int:
        """Returns when what was replayed is done, or dead again."""
        return self._run(self._replay(letter_ids))

    def purge(self, letter_ids: Sequence[str] | None) -> int:
        return self._run(self._engine.bus.purge(letter_ids))

    async def _replay(self, letter_ids: Sequence[str] | None) -> int:
        count = await self._engine.bus.replay(letter_ids)
        await self._engine.bus.drain()
        return count


async def _open(settings: EmbeddedSettings) -> tuple[EmbeddedEngine, Service]:
    engine = EmbeddedEngine(settings, frame=bytes)  # nobody is connected: no frame is ever made
    try:
        files = FileKeys(settings.data / "keys")
        tokens = TokenCheck(await Keys.open(files, say, time.time_ns() // 1_000_000), RULES)
        service = Service(engine.protocols, tokens)
        engine.start()
    except BaseException:
        await engine.stop()
        raise
    return engine, service


def _range(wanted: Wanted, after: str | None) -> Range:
    return Range(
        chat_id=wanted.chat_id,
        limit=wanted.page,
        ascending=not wanted.newest_first,
        by_number=wanted.by_number,
        first=wanted.first if wanted.by_number else _milliseconds(wanted.since),
        last=wanted.last if wanted.by_number else _milliseconds(wanted.until),
        after=after,
    )


def _milliseconds(time: str | None) -> int | None:
    return None if time is None else parse_rfc3339(time)


def _grant(permission: Permission) -> Grant:
    return Grant(
        user_id=permission.user_id,
        chat_id=permission.chat_id,
        role=permission.role,
        granted_by=permission.granted_by,
        granted_at=rfc3339(permission.granted_at).decode(),
    )
