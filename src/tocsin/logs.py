"""What the service tells its operator: one line for each event.

anybody -> Log.info, .warning, .error -> structlog, on stderr | the standard library, which Lambda prints as JSON

Rules:
- structlog is loaded with the first line and not before. It takes longer than all of ours together, and a function on
  AWS, which has the standard library's instead, would wait for it at each start;
- a line that can't be written (the disk is full, its reader has gone) is lost, and nobody's work with it.
"""

import contextlib
import logging
import sys
from types import ModuleType
from typing import Final, Literal, TextIO, cast

#: For a person, for a program, or as Lambda has it.
Form = Literal["text", "json", "lambda"]


class Log:
    """As structlog's own loggers, for those of the house that run on AWS too."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name: Final = name

    def info(self, event: str, **fields: object) -> None:
        _sink.tell("info", self._name, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        _sink.tell("warning", self._name, event, fields)

    def error(self, event: str, **fields: object) -> None:
        _sink.tell("error", self._name, event, fields)


def configure(form: Form) -> None:
    """Takes effect at once, or with the first line."""
    _sink.form, _sink.is_new = form, True
    if form != "lambda" and "structlog" in sys.modules:
        _sink.structlog()


class _LossyStderr:
    """What can't be written is lost."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


class _Sink:
    def __init__(self) -> None:
        self.form: Form = "text"
        self.is_new = False

    def tell(
        self, level: Literal["info", "warning", "error"], name: str, event: str, fields: dict[str, object]
    ) -> None:
        if self.form == "lambda":
            getattr(logging.getLogger(name), level)(event, extra=fields)
        else:
            getattr(self.structlog().get_logger(name), level)(event, **fields)

    def structlog(self) -> ModuleType:
        import structlog

        if self.is_new:
            self.is_new = False
            renderer: structlog.typing.Processor = (
                structlog.processors.JSONRenderer()
                if self.form == "json"
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
                logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _LossyStderr())),
            )
        return structlog


_sink: Final = _Sink()
