"""One stream of log lines for a process and all that it starts: for people, for journald, or as JSON.

A line never holds a traceback: it would show whatever stood in the variables' text of an error. What is told of an
exception is its class, the place in our code where it was raised, and its words if they are ours.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import TracebackType
from typing import TextIO

from common.errors import BottegaError


class Level(StrEnum):
    """How much is told."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_OURS = ("common", "security", "client", "server", "deploy")
_LONGEST_NAME = 100
# Libraries that say at INFO what nobody at a federation needs to know: Flower has a line for each call.
_AT_LEAST = {
    "flwr": logging.WARNING,
    "uvicorn": logging.WARNING,
    "asyncio": logging.WARNING,
    "grpc": logging.WARNING,
    **dict.fromkeys(
        ("httpx", "httpcore", "transformers", "diffusers", "accelerate", "torch", "alembic", "opentelemetry"),
        logging.ERROR,
    ),
}
# Priorities of syslog (RFC 5424, table 2) by Python's levels.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def set_up_logs(*, json_: bool = False, level: Level = Level.INFO, stream: TextIO | None = None) -> None:
    """Send all that this process logs to one stream; called again, the last call holds.

    Args:
        json_: One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message`` and, where there was
            an exception, ``error``. Otherwise a line for people, or for journald where the stream is its.
        level: What is less is not told.
        stream: Where; by default standard error.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if json_ else JournalLines() if _is_journal(stream) else PlainLines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.getLevelNamesMapping()[level.upper()])
    logging.captureWarnings(True)
    take_over()


def take_over() -> None:
    """Have libraries that brought handlers of their own use ours. Call it once they are imported."""
    for name, least in _AT_LEAST.items():
        library = logging.getLogger(name)
        for handler in library.handlers[:]:
            library.removeHandler(handler)
        library.propagate = True
        library.setLevel(max(least, logging.getLogger().level))


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = {
            "time": _time(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        if error := _error(record):
            told["error"] = error
        return json.dumps(told)


class PlainLines(logging.Formatter):
    """A line for people. Only a line that we wrote begins with a time: what others said cannot pose as one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or several of which all but the first are indented."""
        return f"{_time(record)} {record.levelname:7} {record.name}: {_words(record)}"


class JournalLines(logging.Formatter):
    """A line for journald, which adds the time and reads the priority in front (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or several, each with its priority."""
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in f"{record.name}: {_words(record)}".split("\n"))


def described(error: BaseException) -> str:
    """Return what may be told of an exception: its class, its words if they are ours, and where it was raised."""
    name = type(error).__name__
    words = f": {error}" if isinstance(error, BottegaError) else ""
    return f"{name}{words}{_place(error.__traceback__)}"


class ChildLines:
    """Takes the lines that a child process prints, and logs each under the child's name at its own level.

    Lines of ours come as JSON, Flower's as ``LEVEL : words``; what is neither goes on at the level of the line before.
    Of a traceback the class of the error is logged, and its words if the class is ours.

    Args:
        name: Of the child; it stands before the names of its own loggers.
    """

    def __init__(self, name: str) -> None:
        self._name, self._log = name, logging.getLogger(name)
        self._level, self._in_traceback = logging.INFO, False

    def __call__(self, line: str) -> None:
        """Log one line."""
        line = _COLOURS.sub("", line).rstrip()
        if not line or self._is_of_traceback(line):
            return
        if (told := _ours(line)) is not None:
            self._tell(*told)
        elif flowers := _FLOWERS.fullmatch(line):
            self._level = logging.getLevelNamesMapping()[flowers["level"]]
            self._tell(self._level, "", flowers["words"].strip())
        else:
            self._tell(self._level, "", line.strip())

    def _is_of_traceback(self, line: str) -> bool:
        if line.startswith("Traceback (most recent call last)"):
            self._in_traceback = True
            return True
        if not self._in_traceback or line.startswith(" "):
            return self._in_traceback
        self._in_traceback = False
        kind, _, words = line.partition(":")
        ours = kind.partition(".")[0] in _OURS
        self._tell(logging.ERROR, "", f"{kind.rpartition('.')[2]}:{words}" if ours else kind.rpartition(".")[2])
        return True

    def _tell(self, level: int, logger: str, words: str, seconds: float | None = None) -> None:
        if not words or not self._log.isEnabledFor(level):
            return
        name = f"{self._name}.{logger}"[:_LONGEST_NAME] if logger else self._name
        record = logging.LogRecord(name, level, "", 0, "%s", (words,), None)
        if seconds is not None:
            record.created, record.msecs = seconds, seconds % 1 * 1000
        self._log.handle(record)


def carried_out(log: logging.Logger, work: Callable[[], object]) -> int:
    """Do the work of a long-lived command and return its exit code: an error is the last line of its log.

    Args:
        log: Whose last line it is.
        work: What is done.
    """
    try:
        work()
    except BottegaError as why:
        log.critical("%s", why)
        return why.exit_code
    except Exception:
        log.critical("a fault of bottega's own ended the process", exc_info=True)
    else:
        return 0
    return 1


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FLOWERS = re.compile(r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*:(?P<words>(\s.*)?)")


def _ours(line: str) -> tuple[int, str, str, float | None] | None:
    """Return level, logger, words and time of a line that :class:`JsonLines` wrote; None of any other."""
    if not line.startswith("{"):
        return None
    try:
        told = json.loads(line)
        words = told["message"] + (f": {told['error']}" if "error" in told else "")
        level = logging.getLevelNamesMapping()[told["level"].upper()]
        return level, str(told["logger"]), words, dt.datetime.fromisoformat(told["time"]).timestamp()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _time(record: logging.LogRecord) -> str:
    when = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _words(record: logging.LogRecord) -> str:
    """Return the message on lines of which the later ones are indented, without what a terminal would obey."""
    error = _error(record)
    words = record.getMessage() + (f": {error}" if error else "")
    shown = "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return shown.replace("\n", "\n    ")


def _error(record: logging.LogRecord) -> str | None:
    error = record.exc_info[1] if record.exc_info else None
    return described(error) if error else None


def _place(trace: TracebackType | None) -> str:
    """Return the innermost place in our code that a traceback goes through."""
    places = [f" at {module}:{number}" for module, number in _frames(trace) if module.partition(".")[0] in _OURS]
    return places[-1] if places else ""


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_lineno
        trace = trace.tb_next


def _is_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a stream goes to journald, which names it by device and inode in the environment."""
    with contextlib.suppress(OSError, ValueError):
        found = os.fstat(stream.fileno())
        return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
    return False
