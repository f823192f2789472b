"""The templates, synthesized once for each set of flags by the Python that has CDK, read back as JSON, and deployed.

Rule: what is missing (CDK's environment, Node) fails the test, never skips it: `make build/deploy/bin/cfn-lint`.
"""

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from deploy.aws.assembly import Assembly
from tests.deploy.doors import Rest
from tests.deploy.people import Person, back_end_token, sign_up
from tests.deploy.stage import Deployed, deploy
from tests.ministack import PROGRAM, Ministack

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOY: Final = ROOT / "build" / "deploy" / "bin"

PLAIN: Final = ("--alarm-email", "ops@example.com")
SEED_EXACT: Final = (*PLAIN, "--seed-exact")
#: Two names of one's own, and nearly everything that can be asked for.
STAGE: Final = (
    *PLAIN,
    *("--prefix", "dev-"),
    *("--region", "eu-west-1"),
    *("--rest-domain", "api.example.com"),
    *("--rest-certificate", "arn:aws:acm:eu-west-1:111122223333:certificate/rest"),
    *("--websocket-domain", "ws.example.com"),
    *("--websocket-certificate", "arn:aws:acm:eu-west-1:111122223333:certificate/websocket"),
    *("--allowed-origin", "https://app.example.com"),
    *("--allowed-origin", "http://localhost:3000"),
    *("--reserve", "processor=60"),
    *("--processor-concurrency", "30"),
    *("--retention-days", "7"),
    *("--log-days", "90"),
    "--xray",
)
#: One name for both, and one origin.
SHARED: Final = (
    *PLAIN,
    *("--shared-domain", "api.example.com"),
    *("--shared-certificate", "arn:aws:acm:us-east-1:111122223333:certificate/shared"),
    *("--allowed-origin", "https://app.example.com"),
)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Something of CDK's environment, at the root of the tree."""
    if not (DEPLOY / "cfn-lint").exists():
        pytest.fail("CDK's environment is missing: make build/deploy/bin/cfn-lint", pytrace=False)
    program, *arguments = command
    silent = {
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "18,20",
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
        "PYTHONPATH": "src",
    }
    return subprocess.run(
        [DEPLOY / program, *arguments], cwd=ROOT, env=os.environ | silent, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the place of the functions' code, where nothing runs it."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "tocsin").mkdir()
    (folder / "tocsin" / "__init__.py").touch()
    return folder


@pytest.fixture(scope="session")
def synthesize(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Callable[..., Path]:
    """Flags -> the folder with the templates; the same flags, the same folder."""

    @cache
    def folder(*flags: str, package: Path = code) -> Path:
        output = tmp_path_factory.mktemp("templates")
        done = run("python", "-m", "deploy.aws.app", *flags, "--package", package, "--output", output)
        assert done.returncode == 0, done.stderr
        return output

    return folder


@pytest.fixture(scope="session")
def package_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The functions' code for the emulator's own Python, which runs it."""
    folder = tmp_path_factory.mktemp("package") / "functions"
    done = run("python", "-m", "deploy.aws.package", folder, "--python", PROGRAM.with_name("python"))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def make(ministack: Ministack, synthesize: Callable[..., Path], package_here: Path) -> Callable[..., Deployed]:
    """Deploys a stage to the emulator, or updates it."""

    def made(*flags: str, prefix: str = "") -> Deployed:
        named = ("--prefix", prefix) if prefix else ()
        return deploy(synthesize(*PLAIN, *named, *flags, package=package_here), ministack.url, prefix)

    return made


@pytest.fixture(scope="session")
def deployed(make: Callable[..., Deployed]) -> Deployed:
    """The one stage without a prefix. A test has its own chats, and leaves the functions as they were."""
    return make()


@pytest.fixture(scope="session")
def alice(deployed: Deployed) -> Person:
    return sign_up(deployed, "alice")


@pytest.fixture(scope="session")
def bob(deployed: Deployed) -> Person:
    return sign_up(deployed, "bob")


@pytest.fixture(scope="session")
def back_end(deployed: Deployed, ministack: Ministack) -> Rest:
    """With every scope."""
    return Rest(deployed, back_end_token(deployed, ministack.url))


@pytest.fixture
def chat(request: pytest.FixtureRequest, back_end: Rest, alice: Person, bob: Person) -> str:
    """The test's own: alice owns it, bob is a member."""
    name = str(request.node.name).replace("[", ":").replace("]", "")[:100]
    back_end.grant(alice.user_id, name, "owner")
    back_end.grant(bob.user_id, name)
    return name


@pytest.fixture(scope="session")
def plain(synthesize: Callable[..., Path]) -> Assembly:
    return Assembly.read(synthesize(*PLAIN))


@pytest.fixture(scope="session")
def seed_exact(synthesize: Callable[..., Path]) -> Assembly:
    return Assembly.read(synthesize(*SEED_EXACT))


@pytest.fixture(scope="session")
def dev(synthesize: Callable[..., Path]) -> Assembly:
    return Assembly.read(synthesize(*STAGE), "dev-")


@pytest.fixture(scope="session")
def shared(synthesize: Callable[..., Path]) -> Assembly:
    return Assembly.read(synthesize(*SHARED))
