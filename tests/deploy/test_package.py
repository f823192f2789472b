"""The functions' code: what is locked, for Lambda's Python and processor, and tocsin as it stands here."""

import re
from pathlib import Path

import pytest

from tests.deploy.conftest import ROOT, run
from tests.test_repository import locked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "functions"
    done = run("python", "-m", "deploy.aws.package", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_only_what_is_locked_is_packed(packed: Path) -> None:
    found = {}
    for path in packed.glob("*.dist-info"):
        name, _, version = path.stem.rpartition("-")
        found[name.replace("_", "-").lower()] = version
    lock = locked("aws")
    assert {"boto3", "cryptography", "msgspec", "structlog"} <= set(found)
    assert {name: lock[name][0] for name in found} == found


def test_what_only_the_command_line_needs_stays_out(packed: Path) -> None:
    assert not [name for name in ("typer", "rich", "websockets", "pydantic", "apsw", "bin") if (packed / name).exists()]


def test_everything_compiled_is_for_lambda(packed: Path) -> None:
    compiled = [path.name for path in packed.rglob("*.so")]
    assert compiled
    assert not [name for name in compiled if not re.search(r"cpython-313-aarch64|abi3", name)]
    wheels = {line for path in packed.glob("*.dist-info/WHEEL") for line in path.read_text().splitlines()}
    tags = {line.removeprefix("Tag: ") for line in wheels if line.startswith("Tag: ")}
    assert all(tag.endswith(("-none-any", "aarch64")) for tag in tags)


def test_tocsin_is_packed_as_it_stands_here(packed: Path) -> None:
    here = {path.relative_to(ROOT / "src"): path.read_bytes() for path in (ROOT / "src" / "tocsin").rglob("*.py")}
    there = {path.relative_to(packed): path.read_bytes() for path in (packed / "tocsin").rglob("*.py")}
    assert here == there
    assert not list(packed.rglob("__pycache__"))


def test_a_package_with_another_hash_is_refused(tmp_path: Path) -> None:
    """uv checks what a constraint says; if it stopped, anything could get in."""
    lock = (ROOT / "requirements" / "aws.txt").read_text()
    wrong = tmp_path / "aws.txt"
    wrong.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", lock))
    done = run(
        *("uv", "pip", "install", "--system-certs", "--only-binary", ":all:", "--no-deps", "--no-cache"),
        *("--target", tmp_path / "target", "--constraint", wrong, "six"),
    )
    assert done.returncode != 0
    assert "Hash mismatch" in done.stderr
