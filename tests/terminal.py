"""Commands as a person at a terminal sees them."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from collections.abc import Sequence


def run_on_terminal(command: Sequence[object]) -> tuple[bytes, bytes]:
    """Run a command whose standard error is a terminal; return its standard output and what the terminal showed."""
    ours, theirs = pty.openpty()
    finished = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # Linux' end of a pseudo terminal
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    return finished.stdout, seen
