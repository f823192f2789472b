"""What others make of the templates: cdk-nag's rules for AWS solutions, and cfn-lint."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.conftest import SHARED, STAGE, run

pytestmark = pytest.mark.slow


def test_cdk_nag_finds_nothing_but_what_is_meant(tmp_path: Path, code: Path) -> None:
    """deploy/aws/nag.py says what is meant, each with its reason; a row that nothing needs is a fault, too."""
    done = run("python", "-m", "deploy.aws.nag", "--package", code, "--output", tmp_path)
    assert done.returncode == 0, done.stderr


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
