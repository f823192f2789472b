"""The built-in issuer on real folders: its files, who may read them, and that its tokens pass the check."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_IMODE
from threading import Barrier

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from tocsin.engines.file_keys import MAX_TTL_S, RULES, FileKeys
from tocsin.errors import Refusal
from tocsin.identity import SCOPES, Keys, KeysUnusable, TokenCheck, check_token

NOW = 1_800_000_000_123


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Not made yet."""
    return tmp_path / "data" / "keys"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "keys"
    FileKeys(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """As a first start left it: to make its key takes a tenth of a second."""
    return shutil.copytree(made, tmp_path / "data" / "keys")


def unreported(sentence: str) -> None:
    pytest.fail(f"nothing should be reported here: {sentence}")


async def kids(keys: FileKeys) -> set[str]:
    return set((await keys.load()).keys)


def pem(private: PrivateKeyTypes, encryption: KeySerializationEncryption | None = None) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def test_the_first_start_makes_a_key_and_a_cursor_secret_that_only_the_owner_can_read(empty: Path) -> None:
    keys = FileKeys(empty)
    assert sorted(path.name for path in empty.iterdir()) == ["cursor.key", "signing-0001.pem"]
    assert S_IMODE(empty.stat().st_mode) == 0o700
    assert {S_IMODE(path.stat().st_mode) for path in empty.iterdir()} == {0o600}
    assert keys.cursor_secret == (empty / "cursor.key").read_bytes()
    assert len(keys.cursor_secret) == 32


async def test_the_second_start_finds_what_the_first_one_made(empty: Path) -> None:
    first, second = FileKeys(empty), FileKeys(empty)
    assert await kids(first) == await kids(second)
    assert first.cursor_secret == second.cursor_secret


def test_those_who_start_at_once_end_up_with_the_same_keys(empty: Path) -> None:
    together = Barrier(4)

    def start(_number: int) -> tuple[str, bytes]:
        together.wait()
        keys = FileKeys(empty)
        return keys.mint("alice", [], 60, NOW), keys.cursor_secret

    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(start, range(4)))
    assert len(made) == 1, "RS256 gives one token for one key and one second"
    assert sorted(path.name for path in empty.iterdir()) == ["cursor.key", "signing-0001.pem"]


async def test_a_minted_token_passes_the_check(folder: Path) -> None:
    keys = FileKeys(folder)
    token = keys.mint("alice", ["publish:any", "messages:read"], 3600, NOW)
    identity = check_token(token, (await keys.load()).keys, RULES, NOW)
    assert identity.user_id == "alice"
    assert identity.scopes == {"publish:any", "messages:read"}
    assert identity.expires_at == (NOW // 1000 + 3600 + 30) * 1000


async def test_the_longest_token_with_every_scope_passes_too(folder: Path) -> None:
    keys = FileKeys(folder)
    token = keys.mint("u" * 120, SCOPES, MAX_TTL_S, NOW)
    assert check_token(token, (await keys.load()).keys, RULES, NOW).scopes == SCOPES


@pytest.mark.parametrize(
    ("user", "scopes", "ttl_s", "field"),
    [
        ("", [], 60, "user"),
        ("a b", [], 60, "user"),
        ("a" * 121, [], 60, "user"),
        ("alice", ["publish:all"], 60, "scope"),
        ("alice", ["publish:any messages:read"], 60, "scope"),
        ("alice", [], 0, "ttl"),
        ("alice", [], MAX_TTL_S + 1, "ttl"),
    ],
)
def test_what_the_check_would_not_take_is_not_minted(
    folder: Path, user: str, scopes: list[str], ttl_s: int, field: str
) -> None:
    with pytest.raises(Refusal) as refused:
        FileKeys(folder).mint(user, scopes, ttl_s, NOW)
    assert (refused.value.code, refused.value.field) == ("invalid_argument", field)


async def test_after_a_rotation_the_new_key_signs_and_the_old_one_still_verifies(folder: Path) -> None:
    keys = FileKeys(folder)
    before = keys.mint("alice", [], 60, NOW)
    keys.rotate()
    after = keys.mint("alice", [], 60, NOW)
    known = (await keys.load()).keys
    assert len(known) == 2
    assert [check_token(token, known, RULES, NOW).user_id for token in (before, after)] == ["alice", "alice"]
    (folder / "signing-0001.pem").unlink()
    with pytest.raises(Refusal):
        check_token(before, (await keys.load()).keys, RULES, NOW)
    assert FileKeys(folder).mint("alice", [], 60, NOW) == after


async def test_a_running_service_learns_of_a_key_that_another_program_made(folder: Path) -> None:
    tokens = TokenCheck(await Keys.open(FileKeys(folder), unreported, NOW), RULES)
    other = FileKeys(folder)
    other.rotate()
    assert (await tokens.check(other.mint("alice", [], 60, NOW), NOW + 10_000)).user_id == "alice"


@pytest.mark.parametrize(("name", "mode"), [("signing-0001.pem", 0o640), ("cursor.key", 0o604), (".", 0o750)])
def test_what_others_could_read_is_refused_with_the_command_that_helps(folder: Path, name: str, mode: int) -> None:
    path = folder / name
    path.chmod(mode)
    with pytest.raises(KeysUnusable, match=rf"\(mode {mode:04o}\); run: chmod [67]00 {path}$"):
        FileKeys(folder)


async def test_a_key_that_is_opened_to_others_later_keeps_the_known_ones_in_use(folder: Path) -> None:
    file_keys, reports = FileKeys(folder), list[str]()
    keys = await Keys.open(file_keys, reports.append, NOW)
    known = keys.current(NOW)
    (folder / "signing-0001.pem").chmod(0o644)
    with pytest.raises(Refusal) as refused:
        await keys.refresh(NOW + 10_000)
    assert refused.value.code == "unavailable"
    assert str(folder) not in refused.value.message
    assert keys.current(NOW + 10_000) is known
    assert "run: chmod 600" in reports[0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a private key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is not a private key in PEM form"),
        (pem(rsa.generate_private_key(65537, 2048), BestAvailableEncryption(b"x")), "without a password"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "is not an RSA key"),
        (pem(rsa.generate_private_key(65537, 1024)), "neither RSA of 2048 to 8192 bits"),
        (b"x" * 100_000, "is too large for a key"),
    ],
    ids=["empty", "broken", "encrypted", "elliptic", "weak", "huge"],
)
def test_a_file_that_is_no_key_stops_the_start_and_is_named(folder: Path, content: bytes, sentence: str) -> None:
    path = folder / "signing-0002.pem"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(KeysUnusable, match=sentence) as unusable:
        FileKeys(folder)
    assert str(path) in str(unusable.value)


def test_a_cursor_secret_of_another_length_is_refused(folder: Path) -> None:
    (folder / "cursor.key").write_bytes(b"short")
    with pytest.raises(KeysUnusable, match=r"cursor\.key does not have 32 bytes"):
        FileKeys(folder)


def test_a_folder_that_cannot_be_made_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(KeysUnusable, match="cannot be used"):
        FileKeys(tmp_path / "data" / "keys")


async def test_a_folder_whose_last_key_was_deleted_says_so(folder: Path) -> None:
    keys = FileKeys(folder)
    (folder / "signing-0001.pem").unlink()
    with pytest.raises(KeysUnusable, match="No key is left"):
        await keys.load()


async def test_other_files_in_the_folder_are_left_alone(folder: Path) -> None:
    keys = FileKeys(folder)
    known = await kids(keys)
    for name in ("signing-1.pem", "signing-00001.pem", "signing-0002.pem.bak", "xsigning-0003.pem", ".new-left-over"):
        (folder / name).write_text("not a key")
    assert await kids(FileKeys(folder)) == known
