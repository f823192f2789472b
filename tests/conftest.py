"""What every test can lean on. Fixtures of one subject stand in the conftest of its folder.

Rule: warnings are errors, nothing is run again until it passes, and in CI no test may be skipped for a missing program.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

#: Where `make test` puts schemathesis, which must not stand beside pytest.
FUZZ = Path(__file__).parent.parent / "build" / "fuzz" / "bin"

# No deadline: one core does everything here, and a slow example is no defect. The blob repeats a failure exactly.
settings.register_profile("tocsin", deadline=None, print_blob=True)
settings.load_profile("tocsin")


@pytest.fixture(scope="session")
def program() -> Callable[[str], Path]:
    """Where a program is, of the system or of `make test`; without it the test is skipped, in CI it fails."""

    def find(name: str) -> Path:
        folders = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(FUZZ)]
        path = shutil.which(name, path=os.pathsep.join(folders))
        if path is not None:
            return Path(path)
        if "CI" in os.environ:
            pytest.fail(f"CI must have {name}: add its package to tests/system-packages, or make it in the Makefile")
        pytest.skip(f"needs {name}")

    return find
