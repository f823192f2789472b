"""What the service tells its operator: one line for each event, on stderr.

anybody -> Log.info, .warning, .error -> structlog, in the form that a profile has chosen

Rule: structlog is loaded with the first line and not before. It takes longer than all of ours together, and a function
      on AWS, which mostly has nothing to say, would wait for it at each start.
"""

import logging
import sys
from types import ModuleType
from typing import Final, Literal

Form = Literal["text", "json"]


class Log:
    """As structlog's own loggers, for those of the house that run on AWS too."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name: Final = name

    def info(self, event: str, **fields: object) -> None:
        _structlog().get_logger(self._name).info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        _structlog().get_logger(self._name).warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        _structlog().get_logger(self._name).error(event, **fields)


def configure(form: Form) -> None:
    """Takes effect at once, or with the first line."""
    _chosen.append(form)
    if "structlog" in sys.modules:
        _structlog()


#: The form that is still to be told to structlog.
_chosen: Final[list[Form]] = []


def _structlog() -> ModuleType:
    import structlog

    if _chosen:
        form = _chosen[-1]
        _chosen.clear()
        renderer: structlog.typing.Processor = (
            structlog.processors.JSONRenderer()
            if form == "json"
            else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        )
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                renderer,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
    return structlog
