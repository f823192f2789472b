"""Making the templates, and what others make of them: cdk-nag's rules for AWS solutions, and cfn-lint."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.conftest import PLAIN, SHARED, STAGE, run

pytestmark = pytest.mark.slow


def test_cdk_nag_finds_nothing_but_what_is_meant(tmp_path: Path, code: Path) -> None:
    """deploy/aws/nag.py says what is meant, each with its reason; a row that nothing needs is a fault, too."""
    done = run("python", "-m", "deploy.aws.nag", "--package", code, "--output", tmp_path)
    assert done.returncode == 0, done.stderr


def test_who_makes_the_templates_is_told_where_they_are_and_nothing_else(tmp_path: Path, code: Path) -> None:
    done = run("python", "-m", "deploy.aws.app", *PLAIN, "--package", code, "--output", tmp_path)
    assert (done.stdout, done.stderr) == (f"The templates are in {tmp_path}.\n", "")
    assert list(tmp_path.glob("*.template.json"))


@pytest.mark.parametrize("flags", [STAGE, SHARED], ids=["stage", "shared"])
def test_cfn_lint_finds_nothing(synthesize: Callable[..., Path], flags: tuple[str, ...]) -> None:
    """W3005: CDK says DependsOn beside a reference that says the same."""
    templates = sorted(synthesize(*flags).glob("*.template.json"))
    assert len(templates) == 3
    done = run("cfn-lint", "--ignore-checks", "W3005", "--", *templates)
    assert done.returncode == 0, done.stdout


def test_cfn_lint_would_find_something(synthesize: Callable[..., Path], tmp_path: Path) -> None:
    template = (synthesize(*SHARED) / "Tocsin.template.json").read_text()
    wrong = tmp_path / "wrong.json"
    wrong.write_text(template.replace('"Timeout": 60', '"Timeout": 6000'))
    done = run("cfn-lint", "--ignore-checks", "W3005", "--", wrong)
    assert "6000 is greater than the maximum of 900" in done.stdout
