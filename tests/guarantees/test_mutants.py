"""The mutants' own test: what is caught, what survives and what proves nothing are told apart."""

from pathlib import Path

import pytest

from tests.guarantees.mutants import ROOT, Mutant, Trial
from tests.guarantees.mutants_list import MUTANTS

TEST = "test_sum.py::test_sums"


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A tree of one function and its tests."""
    root = tmp_path_factory.mktemp("tree")
    (root / "src").mkdir()
    (root / "src" / "sum.py").write_text("def add(left, right):\n    return left + right\n\n\nUNUSED = 1\n")
    (root / "test_sum.py").write_text(
        "import pytest, sum\n\ndef test_sums():\n    assert sum.add(2, 3) == 5\n\ndef test_red():\n    assert not sum\n"
        "\n@pytest.mark.skip\ndef test_skipped():\n    pass\n"
    )
    (root / "pytest.ini").write_text("[pytest]\n")
    return Trial(root, tmp_path_factory.mktemp("copy"))


def mutant(old: str, new: str, test: str = TEST) -> Mutant:
    return Mutant(name="one", file="src/sum.py", edits=((old, new),), test=test)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tried", "outcome", "why"),
    [
        (mutant("left + right", "left - right"), "caught", "FAILED test_sum.py::test_sums - assert -1 == 5"),
        (mutant("UNUSED = 1", "UNUSED = 2"), "SURVIVED", TEST),
        (mutant("multiply", "divide"), "BROKEN", "'multiply' is 0 times in src/sum.py"),
        (mutant("left", "right"), "BROKEN", "'left' is 2 times in src/sum.py"),
        (mutant("left + right", "left - right", "test_sum.py::test_red"), "BROKEN", "red or skipped without a mutant"),
        (mutant("left + right", "left", "test_sum.py::test_skipped"), "BROKEN", "red or skipped without a mutant"),
        (mutant("left + right", "left", "test_sum.py::test_none"), "BROKEN", "red or skipped without a mutant"),
    ],
    ids=["caught", "survived", "outgrown", "ambiguous", "red anyway", "skipped", "no test"],
)
def test_a_mutant_is_judged_by_a_test_that_was_sound(trial: Trial, tried: Mutant, outcome: str, why: str) -> None:
    verdict = trial.run(tried)
    assert (verdict.outcome, verdict.why[: len(why)]) == (outcome, why)


@pytest.mark.slow
def test_the_copy_is_whole_again_after_a_mutant(trial: Trial, tmp_path: Path) -> None:
    for _ in range(2):
        assert trial.run(mutant("left + right", "left - right")).outcome == "caught"


@pytest.mark.parametrize("listed", MUTANTS, ids=lambda listed: listed.name)
def test_no_mutant_is_outgrown_by_the_code(listed: Mutant) -> None:
    text = (ROOT / listed.file).read_text()
    for old, new in listed.edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    compile(text, listed.file, "exec")
    assert (ROOT / listed.test.partition("::")[0]).exists()
