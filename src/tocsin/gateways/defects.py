"""A defect in the log: an error that is no `Refusal`, at whichever door.

Rule: its kind and its place are logged, never its text, which may quote what somebody sent.
"""

import traceback
from pathlib import PurePath
from typing import Final

from tocsin.logs import Log

_log: Final = Log("tocsin.gateways")


def log_defect(event: str, error: BaseException, **more: str) -> None:
    lines = traceback.extract_tb(error.__traceback__)[-5:]
    at = [f"{PurePath(line.filename).name}:{line.lineno} {line.name}" for line in lines]
    _log.error(event, **more, error=type(error).__name__, at=at)
