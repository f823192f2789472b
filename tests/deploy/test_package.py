"""The functions' code: what is locked, for Lambda's Python and processor, and tocsin as it stands here."""

import re
from pathlib import Path

import pytest

from deploy.aws.assembly import Assembly
from deploy.aws.package import PYTHON
from tests.deploy.conftest import ROOT, run
from tests.ministack import PROGRAM
from tests.test_repository import locked

pytestmark = pytest.mark.slow


#: A .pyc's flags (PEP 552): it goes by its source's hash, and nobody looks whether that is still the hash.
UNCHECKED = (0b01).to_bytes(4, "little")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For Lambda. Compiled if it is Lambda's Python that packs; else it is said that it is not."""
    folder = tmp_path_factory.mktemp("package") / "functions"
    done = run("python", "-m", "deploy.aws.package", folder)
    assert done.returncode == 0, done.stderr
    packs = run("python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip()
    assert ("Nothing is compiled" in done.stderr) == (packs != PYTHON)
    assert bool(list(folder.rglob("*.pyc"))) == (packs == PYTHON)
    return folder


def test_only_what_is_locked_is_packed(packed: Path) -> None:
    found = {}
    for path in packed.glob("*.dist-info"):
        name, _, version = path.stem.rpartition("-")
        found[name.replace("_", "-").lower()] = version
    lock = locked("aws")
    assert {"boto3", "cryptography", "msgspec"} <= set(found)
    assert {name: lock[name][0] for name in found} == found


def test_what_only_the_command_line_needs_stays_out(packed: Path) -> None:
    assert not [
        name for name in ("typer", "rich", "websockets", "structlog", "apsw", "bin") if (packed / name).exists()
    ]


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


def test_it_is_packed_for_the_python_that_the_functions_have(plain: Assembly) -> None:
    assert {each.properties["Runtime"] for each in plain.of("AWS::Lambda::Function")} == {f"python{PYTHON}"}


def test_all_of_it_is_compiled_and_believed_unseen(package_here: Path) -> None:
    """Where nothing can be written, what is not compiled is compiled at each start."""
    compiled = {path.parent.parent / f"{path.name.partition('.')[0]}.py": path for path in package_here.rglob("*.pyc")}
    assert set(compiled) == set(package_here.rglob("*.py"))
    for path in compiled.values():
        code = path.read_bytes()
        assert code[4:8] == UNCHECKED, path
        assert str(package_here).encode() not in code, "a traceback names the place on Lambda"


def test_the_same_sources_make_the_same_package(package_here: Path, tmp_path: Path) -> None:
    """Else each deployment would replace every function."""
    again = tmp_path / "somewhere" / "else"
    done = run("python", "-m", "deploy.aws.package", again, "--python", PROGRAM.with_name("python"))
    assert done.returncode == 0, done.stderr

    def content(folder: Path) -> dict[Path, bytes]:
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert content(again) == content(package_here)


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
