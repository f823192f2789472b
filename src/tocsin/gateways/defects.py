"""What is told of a defect, whoever tells it: its kind and its place, never its text, which may quote a request."""

import traceback
from pathlib import PurePath

#: From the place of the defect outwards.
PLACES = 5


def told(error: BaseException) -> dict[str, object]:
    """`error`: the exception's kind; `at`: where it came from, the innermost place last."""
    lines = traceback.extract_tb(error.__traceback__)[-PLACES:]
    at = [f"{PurePath(line.filename).name}:{line.lineno} {line.name}" for line in lines]
    return {"error": type(error).__name__, "at": at}
