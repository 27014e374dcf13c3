"""How far a long task is, on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from model_server.printable import printable

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many parts of it are done, and of how many; 0 of 0 if that is unknown."""

ERASE_LINE = "\r\x1b[K"


def silent(_what: str, _done: int, _total: int) -> None:
    """Say nothing."""


@contextlib.contextmanager
def on_stderr() -> Iterator[Progress]:
    """Give a function that keeps one line of stderr up to date, or is silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    try:
        yield _show
    finally:
        _write("")


def _show(what: str, done: int, total: int) -> None:
    if total == 0:
        _write(f"{what} …")
    elif done == total:
        _write("")
    elif done % (total // 100 + 1) == 0:
        _write(f"{what} {done:,} of {total:,}")


def _write(line: str) -> None:
    sys.stderr.write(ERASE_LINE + printable(line))
    sys.stderr.flush()
