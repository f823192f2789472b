"""What is committed: no machine's paths, no registry, nothing unfinished; locks that fit; links that lead somewhere.

Words that no file may contain are put together here from parts, since this file is checked, too.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LISTED = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
COMMITTED = sorted(
    path
    for name in subprocess.run(LISTED, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    if name and (path := ROOT / name).is_file() and b"\0" not in path.read_bytes()
)
PAGES = [path for path in COMMITTED if path.suffix == ".md"]
RECORDS = [path for path in PAGES if path.parent == ROOT / "docs" / "decisions"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["server"]]
AWS = PROJECT["project"]["optional-dependencies"]["aws"]
GROUPS = PROJECT["dependency-groups"]
LOCKS = {
    "dev": [*RUNTIME, *AWS, *GROUPS["dev"]],
    "server": RUNTIME,
    "aws": [*PROJECT["project"]["dependencies"], *AWS],
    "fuzz": GROUPS["fuzz"],
    "deploy": GROUPS["deploy"],
    "ministack": GROUPS["ministack"],
    "lock": GROUPS["lock"],
}

HOSTS = [
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("crates", "io"),
    ("golang", "org"),
    ("maven", "org"),
    ("maven", "apache", "org"),
    ("deb", "debian", "org"),
]
UNFINISHED = ["TO" + "DO", "FIX" + "ME"]

FORBIDDEN = {
    "a registry's host": re.compile(rf"\b(?:{'|'.join(re.escape('.'.join(host)) for host in HOSTS)})\b"),
    "a place of one machine": re.compile(r"(?<![\w.:-])/(?:work|root|tmp)/"),
    "something unfinished": re.compile(rf"\b(?:{'|'.join(UNFINISHED)})\b"),
}


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Package -> its version, and how many hashes vouch for it."""
    pins: dict[str, tuple[str, int]] = {}
    for entry in (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines():
        if pin := re.match(r"([\w.-]+)==(\S+)", entry):
            pins[canonicalize_name(pin[1])] = (pin[2], entry.count("--hash=sha256:"))
        else:
            assert not entry.strip() or entry.lstrip().startswith("#"), f"not a pin: {entry[:80]}"
    return pins


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_committed_file_names(kind: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in COMMITTED
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN[kind].search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_project_asks_for_and_a_hash_for_all_it_holds(name: str) -> None:
    pins = locked(name)
    assert all(hashes for _, hashes in pins.values())
    for asked in map(Requirement, LOCKS[name]):
        version, _ = pins[canonicalize_name(asked.name)]
        assert asked.specifier.contains(version, prereleases=True), f"{asked} but {version} is locked: make lock"


def test_the_lock_of_what_npm_brings_says_what_and_not_from_where() -> None:
    folder = ROOT / "requirements" / "dynamodb-local"
    asked = json.loads((folder / "package.json").read_text())["dependencies"]
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert packages.pop("")["dependencies"] == asked
    assert {name: packages[f"node_modules/{name}"]["version"] for name in asked} == asked
    assert all(one["integrity"].startswith("sha512-") and "resolved" not in one for one in packages.values())


def test_what_is_served_is_what_was_tested() -> None:
    assert locked("server").items() <= locked("dev").items()


def links(page: Path) -> list[str]:
    """Those to other files of this tree, from where the page lies."""
    return re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_to_another_page_leads_somewhere(page: Path) -> None:
    assert not [link for link in links(page) if not (page.parent / link).exists()]


def test_the_readme_leads_to_every_guide() -> None:
    """To the records it leads by their folder."""
    guides = {f"docs/{path.name}" for path in COMMITTED if path.parent == ROOT / "docs"}
    assert guides <= set(links(ROOT / "README.md"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_decision_record_says_context_decision_and_consequences(record: Path) -> None:
    assert re.findall(r"^## (\w+)", record.read_text(), re.MULTILINE)[:3] == ["Context", "Decision", "Consequences"]


def test_decision_records_have_a_number_each() -> None:
    numbers = [int(record.name[:4]) for record in RECORDS]
    assert numbers == sorted(set(numbers))
