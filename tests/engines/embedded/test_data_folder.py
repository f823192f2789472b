"""The folder is one process's, and is left as it was found where it can't be used."""

from pathlib import Path

import apsw
import pytest

from tocsin.engines.embedded.data_folder import DataFolder, FolderError
from tocsin.engines.embedded.sql import QUERY, SCHEMA_VERSION


def test_a_second_opener_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    with pytest.raises(FolderError, match="is held by another tocsin process"):
        DataFolder(tmp_path / "data")
    folder.close()
    DataFolder(tmp_path / "data").close()


def test_what_it_makes_is_its_owners_even_in_an_open_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    folder = DataFolder(data)
    modes = {path.name: path.stat().st_mode & 0o077 for path in data.iterdir()}
    folder.close()
    assert modes["tocsin.db"] == modes["tocsin.db-wal"] == modes["lock"] == modes["spare"] == 0


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_with_nothing_in_it_is_not_taken_for_restored(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        (tmp_path / "tocsin.db").touch()
    with pytest.raises(FolderError, match=r"nothing was put back"):
        DataFolder(tmp_path, restored=True)
    assert [path.stat().st_size for path in tmp_path.glob("tocsin.db*")] == ([0] if is_there else [])


def test_the_epoch_stays_until_the_folder_is_restored(tmp_path: Path) -> None:
    epochs = []
    for restored in (False, False, True, False):
        folder = DataFolder(tmp_path / "data", restored=restored)
        epochs.append(folder.epoch)
        folder.close()
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3]


def test_a_newer_store_is_refused_and_not_touched(tmp_path: Path) -> None:
    DataFolder(tmp_path).close()
    connection = apsw.Connection(str(tmp_path / "tocsin.db"))
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    before = (tmp_path / "tocsin.db").read_bytes()
    with pytest.raises(FolderError, match=f"schema version {SCHEMA_VERSION + 1}"):
        DataFolder(tmp_path)
    assert (tmp_path / "tocsin.db").read_bytes() == before


def test_a_store_that_is_damaged_is_refused_and_not_touched(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with folder.writer as writer:
        writer.executemany(
            "INSERT INTO message_storage VALUES (?, ?, ?, ?)", [(n, n, n, b"x" * 200) for n in range(2_000)]
        )
    folder.close()
    damaged = bytearray((tmp_path / "tocsin.db").read_bytes())
    damaged[8 * 4096 : 30 * 4096] = b"\xa5" * (22 * 4096)
    (tmp_path / "tocsin.db").write_bytes(damaged)
    with pytest.raises(FolderError, match="is damaged"):
        DataFolder(tmp_path)
    assert (tmp_path / "tocsin.db").read_bytes() == damaged


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "tocsin.db"))
    connection.execute("CREATE TABLE somebody_elses (thing)")
    connection.close()
    with pytest.raises(FolderError, match="not a store of Tocsin's"):
        DataFolder(tmp_path)


def test_the_write_ahead_logs_pages_are_counted_and_a_checkpoint_begins_it_anew(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)

    def write(character: str) -> None:
        with folder.writer as writer:
            writer.execute(QUERY["set_meta"], ("x", character * 20_000))

    write("a")
    grown = folder.wal_pages
    folder.checkpoint()
    folder.finish_checkpoint()
    write("b")
    assert folder.wal_pages < grown
    folder.close()


def test_the_queries_read_places_as_the_code_makes_them(tmp_path: Path) -> None:
    from tocsin.engines.embedded.chats import MAX_KEY, ORDINAL_BITS, ORDINAL_MASK

    folder = DataFolder(tmp_path)
    place = MAX_KEY << ORDINAL_BITS | ORDINAL_MASK
    with folder.writer as writer:
        writer.execute(QUERY["add_chat"], (MAX_KEY, "the-last"))
        writer.execute(QUERY["append"], (1, place, 7, 1_000, b'{"n":7}'))
        writer.execute(QUERY["move"], ("[1]",))
        writer.execute(QUERY["count_moved"], ("[1]",))
    assert folder.writer.execute(QUERY["find_chat"], ("the-last",)).fetchone() == (MAX_KEY, 7, ORDINAL_MASK)
    assert folder.writer.execute(QUERY["number_at"], (MAX_KEY, 0)).fetchone() == (7, 1_000)
    folder.close()
