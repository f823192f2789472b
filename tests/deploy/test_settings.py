"""What whoever deploys decides: taken as given, or refused with a sentence that says what would do."""

import re
from pathlib import Path

import pytest

from deploy.aws.functions import BY_NAME
from deploy.aws.settings import Domain, parse
from tests.test_docs import named, table

MAIL = ("--alarm-email", "ops@example.com")
CERTIFICATE = "arn:aws:acm:eu-west-1:111122223333:certificate/a"
CLOUDFRONT = "arn:aws:acm:us-east-1:111122223333:certificate/a"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default one, relative to where the command runs."""
    (tmp_path / "build" / "functions" / "tocsin").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


def test_every_flag_is_in_the_checklist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    listed = named(table("docs/aws-deployment-checklist.md", "## Settings"))
    assert set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"} == listed


def test_one_flag_is_enough() -> None:
    settings = parse(MAIL)
    assert settings.named("ConnectionTable") == "ConnectionTable"
    assert (settings.region, settings.reserved, settings.xray) == (None, {}, False)
    assert (settings.rest_domain, settings.websocket_domain, settings.shared_domain) == (None, None, None)


def test_a_prefix_stands_before_every_name() -> None:
    assert parse([*MAIL, "--prefix", "dev-"]).named("Notifications.fifo") == "dev-Notifications.fifo"


def test_seed_exact_reserves_for_two_functions() -> None:
    assert parse([*MAIL, "--seed-exact"]).reserved == {"a2pHttpPublisher": 1, "message-storage": 5}


def test_a_domain_comes_with_its_certificate() -> None:
    settings = parse([*MAIL, "--rest-domain", "api.example.com", "--rest-certificate", CERTIFICATE])
    assert settings.rest_domain == Domain(name="api.example.com", certificate=CERTIFICATE)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "the following arguments are required: --alarm-email"),
        (["--alarm-email", "nobody"], "'nobody' is not an e-mail address"),
        ([*MAIL, "--prefix", "Dev"], "'Dev' is not at most 20 of a-z, 0-9 and hyphens, with a hyphen last"),
        ([*MAIL, "--prefix", "my-aws-"], "without aws, amazon, cognito"),
        ([*MAIL, "--region", "Ireland"], "'Ireland' is not a Region like eu-west-1"),
        ([*MAIL, "--rest-domain", "api.example.com"], "--rest-domain and --rest-certificate belong together"),
        ([*MAIL, "--rest-domain", "api"], "'api' is not a domain name"),
        ([*MAIL, "--shared-certificate", "mine.pem"], "'mine.pem' is not the ARN of a certificate"),
        (
            [*MAIL, "--shared-domain", "api.example.com", "--shared-certificate", CERTIFICATE],
            "--shared-certificate must be in us-east-1",
        ),
        (
            [
                *MAIL,
                *("--shared-domain", "a.example.com", "--shared-certificate", CLOUDFRONT),
                *("--rest-domain", "b.example.com", "--rest-certificate", CERTIFICATE),
            ],
            "--shared-domain is one name for both APIs",
        ),
        ([*MAIL, "--allowed-origin", "https://app.example.com/"], "is not an origin like https://app.example.com"),
        ([*MAIL, "--allowed-origin", "*"], "'*' is not an origin"),
        ([*MAIL, "--reserve", "publisher=3"], "'publisher' is no function; there are websocket-authorizer, "),
        ([*MAIL, "--reserve", "processor=none"], "'none' is not a number from 1 to 1000"),
        ([*MAIL, "--reserve", "processor=39"], "--reserve processor=39: its queues start up to 40 at once"),
        ([*MAIL, "--reserve", "message-storage=4"], "--reserve message-storage=4: its queues start up to 5 at once"),
        ([*MAIL, "--seed-exact", "--reserve", "processor=100"], "leave out --reserve"),
        ([*MAIL, "--processor-concurrency", "1"], "'1' is not a number from 2 to 1000"),
        ([*MAIL, "--log-days", "31"], "'31' days cannot be kept; 1, 3, 5, 7, 14, 30, "),
        ([*MAIL, "--package", "nowhere"], "nowhere holds no package of the functions"),
        ([*MAIL, "--pre", "dev-"], "unrecognized arguments: --pre dev-"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(flags)
    assert sentence in capsys.readouterr().err.replace("\n", " ")


def test_the_seeds_reservations_are_what_their_queues_start() -> None:
    assert {name: each.seed_reserved for name, each in BY_NAME.items() if each.seed_reserved} == {
        "a2pHttpPublisher": 1,
        "message-storage": 5,
    }
