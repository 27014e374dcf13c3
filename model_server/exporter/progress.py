"""How far a long task is, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many parts of it are done, and of how many; 0 of 0 if that is unknown."""

ERASE_LINE = "\r\x1b[K"


def silent(_what: str, _done: int, _total: int) -> None:
    """Say nothing."""


def on_stderr() -> Progress:
    """Return a function that keeps one line of stderr up to date, or is silent where that is no terminal."""
    return _line if sys.stderr.isatty() else silent


def _line(what: str, done: int, total: int) -> None:
    count = f": {done:,} of {total:,}" if total else " …"
    end = "" if done < total or not total else ERASE_LINE
    sys.stderr.write(f"{ERASE_LINE}{what}{count}{end}")
    sys.stderr.flush()
