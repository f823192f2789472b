"""What went wrong, in one sentence: what a command raises, and `main` prints (exit code 1).

A wrong use is `typer.BadParameter` instead (exit code 2).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from tocsin.errors import STATUS


class Failure(typer.TyperException):
    """The sentence is for a person, and repeats no token."""


class Unreachable(Failure):
    """No answer, or half of one: whether what was asked for has been done is unknown."""


class Refused(Failure):
    """The service's own refusal. `retry_after` is in seconds, None if it says nothing of another try."""

    def __init__(self, code: str, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(f"{message} ({code}, {field})" if field else f"{message} ({code})")
        self.code: Final = code
        self.retry_after: Final = retry_after

    @property
    def is_unknown(self) -> bool:
        """Whether it leaves open if anything was done: 500, 502 to 504 (docs/wire.md, Definite and unknown)."""
        return STATUS.get(self.code, 500) in (500, 503)


def beyond_repeating(code: str) -> bool:
    """Whether asking again would get the same refusal."""
    return STATUS.get(code, 500) not in (429, 500, 503, 507)


@contextmanager
def server_packages() -> Iterator[None]:
    """Around the imports of what serves: the client side is installed without them."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "tocsin").partition(".")[0]
        if missing == "tocsin":
            raise
        raise Failure(
            f"This needs the server's packages ({missing} is missing): pip install 'tocsin[server]'"
        ) from None
