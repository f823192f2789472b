"""What whoever deploys decides: one flag for each, with a sentence when it is wrong. Pure.

    flags -> settings (here) -> stacks.py

Rule: what follows from the service itself (tables, queues, filters, routes, timeouts) is no setting; it is read from
`tocsin` (topology, engines/aws/schema, engines/aws/settings) or stands in functions.py.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from deploy.aws.functions import BY_NAME, STORAGE_CONCURRENCY
from tocsin.topology import QUEUES

#: How many days CloudWatch Logs can keep, and what CDK calls them.
LOG_DAYS: Final = {
    1: "ONE_DAY",
    3: "THREE_DAYS",
    5: "FIVE_DAYS",
    7: "ONE_WEEK",
    14: "TWO_WEEKS",
    30: "ONE_MONTH",
    60: "TWO_MONTHS",
    90: "THREE_MONTHS",
    180: "SIX_MONTHS",
    365: "ONE_YEAR",
    731: "TWO_YEARS",
    1827: "FIVE_YEARS",
    3653: "TEN_YEARS",
}
#: Where CloudFront wants its certificates.
CLOUDFRONT_REGION: Final = "us-east-1"


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    certificate: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`shared_domain` is CloudFront in front of both APIs; else each may have a name of its own.

    `tables_prefix`: what the names of the tables begin with that are served from, where those are not the stage's own
    (after `tocsin aws restore`). `reserved` is concurrency by function; a mapping's own bound is
    `processor_concurrency`.
    """

    alarm_email: str
    prefix: str = ""
    tables_prefix: str | None = None
    region: str | None = None
    rest_domain: Domain | None = None
    websocket_domain: Domain | None = None
    shared_domain: Domain | None = None
    allowed_origins: tuple[str, ...] = ()
    reserved: dict[str, int] = {}
    processor_concurrency: int = 20
    retention_days: int = 30
    log_days: int = 30
    xray: bool = False
    output: Path = Path("build/aws")
    package: Path = Path("build/functions")

    def named(self, name: str) -> str:
        """The physical name: fixed, so that two stages of one account and Region need two prefixes."""
        return self.prefix + name

    def table(self, name: str) -> str:
        """Of the table that is served from."""
        return (self.prefix if self.tables_prefix is None else self.tables_prefix) + name


def parse(arguments: Sequence[str]) -> Settings:
    """Says on stderr what is wrong, and exits with 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    domains = {kind: _domain(parser, given, kind) for kind in ("rest", "websocket", "shared")}
    if domains["shared"] and (domains["rest"] or domains["websocket"]):
        parser.error("--shared-domain is one name for both APIs; --rest-domain and --websocket-domain are one each")
    if domains["shared"] and f":{CLOUDFRONT_REGION}:" not in domains["shared"].certificate:
        parser.error(f"--shared-certificate must be in {CLOUDFRONT_REGION}, where CloudFront looks for it")
    reserved = dict(given.reserve)
    if given.seed_exact:
        if reserved:
            parser.error("--seed-exact reserves what the seed reserves; leave out --reserve")
        reserved = {name: each.seed_reserved for name, each in BY_NAME.items() if each.seed_reserved is not None}
    _check_concurrency(parser, reserved, given.processor_concurrency)
    return Settings(
        alarm_email=given.alarm_email,
        prefix=given.prefix,
        tables_prefix=given.tables_prefix,
        region=given.region,
        rest_domain=domains["rest"],
        websocket_domain=domains["websocket"],
        shared_domain=domains["shared"],
        allowed_origins=tuple(given.allowed_origin),
        reserved=reserved,
        processor_concurrency=given.processor_concurrency,
        retention_days=given.retention_days,
        log_days=given.log_days,
        xray=given.xray,
        output=given.output,
        package=given.package,
    )


def _check_concurrency(parser: argparse.ArgumentParser, reserved: dict[str, int], processor: int) -> None:
    """What a mapping may start beyond a function's reservation is throttled, and throttling counts as receiving."""
    queues = [queue for queue in QUEUES if queue.channel is not None]
    bounds = {"processor": processor * len(queues), "message-storage": STORAGE_CONCURRENCY}
    for name, bound in bounds.items():
        if reserved.get(name, bound) < bound:
            parser.error(f"--reserve {name}={reserved[name]}: its queues start up to {bound} at once")


def _domain(parser: argparse.ArgumentParser, given: argparse.Namespace, kind: str) -> Domain | None:
    name, certificate = getattr(given, f"{kind}_domain"), getattr(given, f"{kind}_certificate")
    if (name is None) != (certificate is None):
        parser.error(f"--{kind}-domain and --{kind}-certificate belong together")
    return None if name is None else Domain(name=name, certificate=certificate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make synth SETTINGS=…", allow_abbrev=False)
    add = parser.add_argument
    add("--alarm-email", required=True, type=_matching(r"[^@\s]+@[^@\s]+", "an e-mail address"), help="who is alarmed")
    add(
        "--prefix",
        default="",
        type=_matching(
            # the user pool's domain begins with it, and Cognito forbids these words there
            r"((?!.*(aws|amazon|cognito))[a-z][a-z0-9-]{0,18}-)?",
            "at most 20 of a-z, 0-9 and hyphens, with a hyphen last, and without aws, amazon, cognito",
        ),
        help="what all names begin with, as in dev-; by default nothing",
    )
    add(
        "--tables-prefix",
        type=_matching(r"[A-Za-z0-9_-]{1,64}", "1 to 64 of A-Z, a-z, 0-9, _ and -"),
        help="what the names of restored tables begin with; by default the stage's own tables",
    )
    add("--region", type=_matching(r"[a-z]{2}(-[a-z]+)+-\d", "a Region like eu-west-1"), help="by default the caller's")
    for kind, serves in (("rest", "REST"), ("websocket", "WebSocket"), ("shared", "both, through CloudFront")):
        add(
            f"--{kind}-domain",
            type=_matching(r"[a-z0-9-]+(\.[a-z0-9-]+)+", "a domain name"),
            help=f"a name for {serves}",
        )
        add(
            f"--{kind}-certificate",
            type=_matching(r"arn:aws[\w-]*:acm:\S+", "the ARN of a certificate"),
            help="its ACM certificate",
        )
    add(
        "--allowed-origin",
        action="append",
        default=[],
        type=_matching(r"https?://[a-z0-9.-]+(:\d+)?", "an origin like https://app.example.com"),
        help="an origin whose pages may call; repeat it",
    )
    add("--seed-exact", action="store_true", help="reserve concurrency as the seed does")
    add("--reserve", action="append", default=[], type=_reservation, help="FUNCTION=N: reserve concurrency; repeat it")
    add("--processor-concurrency", default=20, type=_between(2, 1000), help="for each of the processor's queues; 20")
    add("--retention-days", default=30, type=_between(1, 3650), help="how long messages are kept; 30")
    add("--log-days", default=30, type=_log_days, help="how long logs are kept; 30")
    add("--xray", action="store_true", help="trace functions and the REST API")
    add("--output", default=Path("build/aws"), type=Path, help="where the templates go; build/aws")
    add("--package", default="build/functions", type=_folder, help="the functions' code; build/functions")
    return parser


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return text

    return check


def _between(lowest: int, highest: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {lowest} to {highest}")
        return int(text)

    return check


def _log_days(text: str) -> int:
    if text not in map(str, LOG_DAYS):
        raise argparse.ArgumentTypeError(f"{text!r} days cannot be kept; {', '.join(map(str, LOG_DAYS))} can")
    return int(text)


def _reservation(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in BY_NAME:
        raise argparse.ArgumentTypeError(f"{name!r} is no function; there are {', '.join(BY_NAME)}")
    return name, _between(1, 1000)(number)


def _folder(text: str) -> Path:
    if not (Path(text) / "tocsin").is_dir():
        raise argparse.ArgumentTypeError(f"{text} holds no package of the functions; deploy/aws/package.py makes one")
    return Path(text)
