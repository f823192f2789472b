"""The data folder: one process holds it, one database lies in it, and a spare file that is given up on a full disk.

    DataFolder -> lock -> inspection, which only reads -> schema -> writer and reader connections

Rules:
- a second process is refused before it has touched anything;
- a corrupt or a newer file is refused, untouched;
- synchronous=FULL: NORMAL lost acknowledged rows in a power cut. Every pragma is read back.
"""

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Final

import apsw

from tocsin.engines.embedded.sql import QUERY, SCHEMA, SCHEMA_VERSION

SPARE_BYTES: Final = 2 * 1024 * 1024
PAGE_BYTES: Final = 4096
#: How often a checkpoint is begun again for what came meanwhile, and how many pages are left to the writer's turn.
CHECKPOINT_ROUNDS: Final = 4
CHECKPOINT_REST_PAGES: Final = 400
#: How long the check at the start may take; stores that need longer are checked in the background.
CHECK_SECONDS: Final = 0.5


class FolderError(Exception):
    """The folder can't be used as it is; the sentence says why, for a person."""


class DataFolder:
    """An open data folder. `writer` and `reader` may be used by any thread, by one at a time."""

    def __init__(self, path: Path, *, restored: bool = False) -> None:
        self.path: Final = path
        self.database: Final = path / "tocsin.db"
        #: Of the write-ahead log, since it was last begun anew.
        self.wal_pages = 0
        os.umask(0o077)  # what this process makes is nobody else's, whatever the folder allows
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(path)
        try:
            if restored and not (self.database.exists() and self.database.stat().st_size):
                raise FolderError(f"{self.database} is missing or empty: nothing was put back.")
            #: Whether the inspection had the time to read the whole store.
            self.checked = not self.database.exists() or self._inspect()
            self.writer = self._open_writer(create=True)
            self._make_schema()
            self.epoch = self._settle_epoch(draw=restored)
            self.reader = self._open(create=False)
        except (apsw.CorruptError, apsw.NotADBError) as error:
            os.close(self._lock)
            raise FolderError(f"{self.database} is damaged ({error}); it was left as it is. Restore a copy.") from error
        except apsw.Error as error:
            os.close(self._lock)
            raise FolderError(f"{self.database} can't be opened ({error}).") from error
        except BaseException:
            os.close(self._lock)
            raise
        #: Whether there was room for the spare file when the folder was opened.
        self.had_room: Final = self.reserve()

    def _open_writer(self, *, create: bool) -> apsw.Connection:
        writer = self._open(create=create)
        writer.set_wal_hook(self._count_wal)
        return writer

    def _open(self, *, create: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        connection = apsw.Connection(str(self.database), flags=flags, statementcachesize=200)
        connection.set_busy_timeout(5_000)
        if create and not _pragma(connection, "page_count"):
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        for pragma, value, expected in (
            ("journal_mode", "WAL", "wal"),
            ("synchronous", "FULL", 2),
            ("wal_autocheckpoint", 0, 0),
            ("cache_size", -65_536, -65_536),
            ("temp_store", "MEMORY", 2),
            ("foreign_keys", "ON", 1),
            ("journal_size_limit", 256 * 1024 * 1024, 256 * 1024 * 1024),
        ):
            connection.execute(f"PRAGMA {pragma}={value}")
            if _pragma(connection, pragma) != expected:
                raise FolderError(f"{self.database}: {pragma} could not be set to {value}.")
        return connection

    def _inspect(self) -> bool:
        """Refuses what this Tocsin can't use; whether all of it was read. Closing a writer would already change it."""
        connection = apsw.Connection(str(self.database), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(5_000)
            version = _pragma(connection, "user_version")
            if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").get:
                raise FolderError(f"{self.database} is not a store of Tocsin's; it was left as it is.")
            if version not in (0, SCHEMA_VERSION):
                raise FolderError(
                    f"{self.database} has schema version {version}; this Tocsin knows {SCHEMA_VERSION}. "
                    "It was left as it is."
                )
            return _check(connection, CHECK_SECONDS)
        finally:
            connection.close()

    def _make_schema(self) -> None:
        if _pragma(self.writer, "user_version") == 0:
            with self.writer:
                self.writer.execute(SCHEMA)
                self.writer.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _settle_epoch(self, *, draw: bool) -> str:
        found = self.writer.execute(QUERY["get_meta"], ("epoch",)).get
        if isinstance(found, str) and not draw:
            return found
        epoch = secrets.token_urlsafe(9)
        with self.writer:
            self.writer.execute(QUERY["set_meta"], ("epoch", epoch))
        return epoch

    def check_whole(self) -> str | None:
        """What is wrong with the database, None: nothing. Takes as long as it takes, on a connection of its own."""
        connection = apsw.Connection(str(self.database), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            verdict = connection.execute("PRAGMA quick_check(1)").get
            return None if verdict == "ok" else str(verdict)
        except apsw.CorruptError as error:
            return str(error)
        finally:
            connection.close()

    def reopen(self) -> None:
        """After a failed sync nothing of the writer's state is to be believed."""
        self.writer.close(True)
        self.writer = self._open_writer(create=False)

    def _count_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def checkpoint(self) -> None:
        """Copies the write-ahead log back, beside the writer, on a connection of its own, until little is left."""
        connection = apsw.Connection(str(self.database), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("PRAGMA synchronous=FULL")
            for _ in range(CHECKPOINT_ROUNDS):
                copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[1]
                if self.wal_pages - copied < CHECKPOINT_REST_PAGES:
                    break
        finally:
            connection.close()

    def finish_checkpoint(self) -> None:
        """Copies the rest, in the writer's turn."""
        self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def reserve(self) -> bool:
        """Writes the spare file; False: there is no room for it, and for as much again, which the next commits need."""
        spare = self.path / "spare"
        try:
            with spare.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 2 * SPARE_BYTES)
                file.truncate(SPARE_BYTES)
                os.fsync(file.fileno())
        except OSError:
            spare.unlink(missing_ok=True)
            return False
        return True

    def release(self) -> None:
        """Gives the spare file's room to the database."""
        (self.path / "spare").unlink(missing_ok=True)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()
        os.close(self._lock)


def _lock(path: Path) -> int:
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise FolderError(f"{path} is held by another tocsin process ({holder or 'unknown'}).") from None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _pragma(connection: apsw.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").get


def _check(connection: apsw.Connection, seconds: float) -> bool:
    """Whether the whole store was checked in that time. apsw.CorruptError: it is damaged."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 20_000)
    try:
        verdict = connection.execute("PRAGMA quick_check(1)").get
    except apsw.InterruptError:
        return False
    finally:
        connection.set_progress_handler(None)
    if verdict != "ok":
        raise apsw.CorruptError(str(verdict))
    return True
