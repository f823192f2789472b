"""What a flag or a variable may say: a text -> a value, or a sentence with what is allowed. Pure.

Rule: typer hands a parameter's default through here, too; a value that is one already stays as it is.
"""

import math
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

import typer

from tocsin.message import is_chat_id, is_printable_id, is_user_id, parse_rfc3339, rfc3339
from tocsin.roles import RANK
from tocsin.topology import QUEUES

_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
#: 100 years; more was meant in another unit.
_LONGEST_MS: Final = 36_500 * 86_400_000
_DURATION: Final = "a whole number with its unit, ms, s, m, h or d, such as 30d or 12h, up to 36500d"
_LARGEST: Final = 1e12
_SWITCH: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[1-9]\d{0,4})?", re.ASCII)
_BASE_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)
_CLAIM: Final = re.compile(r"[!-~]{1,128}", re.ASCII)


def one_of(allowed: Callable[[str], object], sentence: str) -> Callable[[str], str]:
    """A parser for texts that `allowed` finds right."""

    def parse(text: str) -> str:
        if not allowed(text):
            raise refuse(text, sentence)
        return text

    return parse


def whole(least: int, most: int) -> Callable[[str | int], int]:
    def parse(text: str | int) -> int:
        if not re.fullmatch(r"\d{1,18}", str(text), re.ASCII) or not least <= int(text) <= most:
            raise refuse(text, f"a whole number from {least} to {most}")
        return int(text)

    return parse


def switch(text: str) -> bool:
    """What a variable says for a flag."""
    value = _SWITCH.get(text.lower())
    if value is None:
        raise refuse(text, f"one of {', '.join(_SWITCH)}")
    return value


def rate(text: str | float) -> float:
    """Above 0 and finite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= _LARGEST:
        raise refuse(text, f"a number above 0, up to {_LARGEST:.0e}")
    return number


def count(text: str | float) -> float:
    """From 0; part of one is allowed, for averages."""
    try:
        return 0.0 if text in ("0", 0.0) else rate(text)
    except typer.BadParameter:
        raise refuse(text, f"a number from 0 to {_LARGEST:.0e}") from None


def duration(text: str | int) -> int:
    """`30d`, `12h`, `45m`, `90s` or `500ms`, in milliseconds."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"(\d{1,15})(ms|[smhd])", text, re.ASCII)
    length = int(match[1]) * _MILLISECONDS[match[2]] if match else 0
    if not 0 < length <= _LONGEST_MS:
        raise refuse(text, _DURATION)
    return length


def time_limit(text: str | int) -> int:
    """As `duration`, or 0: no limit."""
    try:
        return 0 if text == "0" else duration(text)
    except typer.BadParameter:
        raise refuse(text, f"0, or {_DURATION}") from None


def moment(text: str) -> str:
    """An RFC 3339 time, normalised to UTC and milliseconds."""
    try:
        return rfc3339(parse_rfc3339(text)).decode()
    except (ValueError, OverflowError):
        raise refuse(text, "an RFC 3339 time such as 2026-01-31T09:00:00Z") from None


def network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise refuse(text, "an address or a network such as 10.0.0.0/8 or 2001:db8::/32") from None


def trusted_url(text: str) -> str:
    """An address that keys may come from: https, or http on this machine."""
    parts = _split(text)
    if parts is None or (parts.scheme == "http" and not _is_loopback(parts.hostname or "")):
        raise refuse(text, "an https URL (http on this machine only) without user, password, query or fragment")
    return text


def service_url(text: str) -> str:
    """A service's address without a slash at its end; `/dvl` where it has no path."""
    parts = _split(text)
    if parts is None:
        raise refuse(text, "the http or https URL of a service, such as http://127.0.0.1:8080/dvl")
    return text.rstrip("/") + ("" if parts.path.strip("/") else "/dvl")


def _split(url: str) -> SplitResult | None:
    """None unless it is a plain http or https URL."""
    if not re.fullmatch(r"https?://[!-~]+", url, re.ASCII):
        return None
    try:
        parts = urlsplit(url)
        right = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if right and not {"@", "?", "#"} & set(url) else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def failpoints(text: str) -> str:
    from tocsin.failpoints import Failpoints  # brings asyncio along, and is hardly ever needed

    try:
        Failpoints(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    return text


def refuse(text: object, allowed: str) -> typer.BadParameter:
    """The value, and what it may be; typer adds the names of the flag and the variable. No password is repeated."""
    value = re.sub(r"//[^/@]*@", "//…@", str(text)[:200])
    return typer.BadParameter(f"{value!r} is not allowed; allowed is {allowed}.")


port: Final = whole(0, 65_535)
number: Final = whole(0, 10**17)
base_path: Final = one_of(_BASE_PATH.fullmatch, "a path such as /dvl, with a / before each part and none at its end")
origin: Final = one_of(
    _ORIGIN.fullmatch, "an origin as browsers send it, such as https://app.example.com, without a path"
)
host: Final = one_of(re.compile(r"[0-9A-Za-z_.:%-]{1,253}", re.ASCII).fullmatch, "an address or a name of this machine")
claim: Final = one_of(_CLAIM.fullmatch, "the name of a claim, without spaces")
prefix: Final = one_of(re.compile(r"[!-~]{0,128}", re.ASCII).fullmatch, "what scopes begin with, without spaces")
audience: Final = one_of(re.compile(r"[!-~]{1,512}", re.ASCII).fullmatch, "an audience or client id, without spaces")
log_format: Final = one_of({"text", "json"}.__contains__, "text or json")
message_type: Final = one_of({"standard", "fifo"}.__contains__, "standard or fifo")
role: Final = one_of(RANK.__contains__, "owner, admin, member or reader")
queue: Final = one_of(
    {name for each in QUEUES for name in (each.name, each.dead_letters)}.__contains__,
    "one of " + ", ".join(each.name for each in QUEUES),
)
chat_id: Final = one_of(is_chat_id, "1 to 128 of the characters A-Z a-z 0-9 . _ : @ | + = ~ -")
user_id: Final = one_of(is_user_id, "1 to 120 of the characters A-Z a-z 0-9 . _ : @ | + = ~ -")
printable_id: Final = one_of(is_printable_id, "1 to 128 printable ASCII characters")
letter_id: Final = one_of(
    re.compile(r"\d{1,18}|[A-Za-z]{1,64}(:[0-9a-f-]{1,64}){1,2}", re.ASCII).fullmatch,
    "the id of a dead letter, as `tocsin dlq list` prints it",
)
endpoint: Final = one_of(
    _split,
    "the http or https URL of a WebSocket stage, such as https://ID.execute-api.REGION.amazonaws.com/dvl",
)
place: Final = one_of(
    re.compile(r"[^/\s]{1,128}/[0-9TZ:.-]+#[0-9a-f-]{36}", re.ASCII).fullmatch,
    "a place, as an erasure that was ended says it",
)
aws_prefix: Final = one_of(
    re.compile(r"[A-Za-z0-9_-]{0,64}", re.ASCII).fullmatch, "what the names of a stage begin with, such as dev-"
)
tables_prefix: Final = one_of(
    re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII).fullmatch, "what the names of new tables begin with, such as restored-"
)
aws_region: Final = one_of(re.compile(r"[a-z]{2}(-[a-z]+)+-\d", re.ASCII).fullmatch, "a Region such as eu-west-1")
event_type: Final = one_of(lambda text: 1 <= len(text) <= 128, "1 to 128 characters")
