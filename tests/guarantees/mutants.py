"""A check that cannot fail is a defect: each mutant breaks one promise in a copy of the tree, and a test must go red.

    make mutants            all of them, as a table; exit 1 unless every one was caught
    python -m tests.guarantees.mutants NAME …

Rules: a mutant is a text, or a few, and what stands there instead; each must be in the file exactly once, so that a
mutant that the code has outgrown is found. The test is first run on the copy as it is: red without a mutant proves
nothing. A test that catches its mutant by chance is not enough: it must every time. mutants_list.py has the mutants.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
#: Seconds for one test; it takes a fraction of it, unless a mutant makes it wait.
DEADLINE: Final = 300
_LEFT_OUT: Final = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "build", "dist")
#: pytest's exit statuses: 0 all passed, 1 some failed; what is more means that it could not run.
_PASSED, _FAILED = 0, 1

Outcome = Literal["caught", "SURVIVED", "BROKEN"]


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """In `file` each text of `edits` becomes another; `test` is what pytest is given. Paths are from the root."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    test: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    mutant: str
    outcome: Outcome
    why: str
    seconds: float


class Trial:
    """A copy of the tree at `root`, whole again after every mutant."""

    def __init__(self, root: Path, copy: Path) -> None:
        self._copy: Final = copy
        self._sound: Final[dict[str, str]] = {}
        shutil.copytree(root, copy, ignore=_LEFT_OUT, dirs_exist_ok=True)

    def run(self, mutant: Mutant) -> Verdict:
        before = time.monotonic()
        outcome, why = self._judge(mutant)
        return Verdict(mutant=mutant.name, outcome=outcome, why=why, seconds=time.monotonic() - before)

    def _judge(self, mutant: Mutant) -> tuple[Outcome, str]:
        file = self._copy / mutant.file
        whole = file.read_text() if file.exists() else ""
        changed = whole
        for old, new in mutant.edits:
            if (times := changed.count(old)) != 1:
                return "BROKEN", f"{old.strip()[:60]!r} is {times} times in {mutant.file}"
            changed = changed.replace(old, new)
        if fault := self._fault_without_a_mutant(mutant.test):
            return "BROKEN", fault
        file.write_text(changed)
        try:
            status, printed = self._pytest(mutant.test)
        finally:
            file.write_text(whole)
        if status == _PASSED:
            return "SURVIVED", mutant.test
        if status != _FAILED:
            return "BROKEN", f"pytest ended with {status}: {_last(printed)}"
        return "caught", _red(printed)

    def _fault_without_a_mutant(self, test: str) -> str:
        """Empty: the test passes on the copy as it is. Looked at once for each test."""
        if test not in self._sound:
            status, printed = self._pytest(test)
            passed = status == _PASSED and "skipped" not in _last(printed)
            self._sound[test] = "" if passed else f"red or skipped without a mutant: {_last(printed)}"
        return self._sound[test]

    def _pytest(self, test: str) -> tuple[int, str]:
        """The copy comes first on the path, for pytest and for the processes that a test starts."""
        path = os.pathsep.join((str(self._copy / "src"), str(self._copy)))
        environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "400"}  # of reasons
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *test.split(" ")]
        try:
            done = subprocess.run(
                command, cwd=self._copy, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
            )
        except subprocess.TimeoutExpired:
            return _FAILED, f"FAILED {test} - it did not end in {DEADLINE} s"
        return done.returncode, done.stderr + done.stdout


def _last(printed: str) -> str:
    return next((line for line in reversed(printed.splitlines()) if line.strip()), "nothing")


def _red(printed: str) -> str:
    """The first test that failed, and its reason as pytest puts it."""
    return next((line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))), _last(printed))


def run(mutants: Sequence[Mutant], root: Path) -> list[Verdict]:
    """One after another, told as they end."""
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trial = Trial(root, Path(folder))
        for mutant in mutants:
            verdict = trial.run(mutant)
            print(f"{verdict.outcome:9} {verdict.seconds:5.1f} s  {verdict.mutant}: {verdict.why[:300]}", flush=True)
            verdicts.append(verdict)
    return verdicts


def main(names: Sequence[str]) -> int:
    """0: all caught; 1: not; 2: a name that is none."""
    from tests.guarantees.mutants_list import MUTANTS

    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        print(f"no such mutant: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    verdicts = run(chosen, ROOT)
    caught = sum(verdict.outcome == "caught" for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} caught")
    return 0 if caught == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
