"""What one picture may cost: the kernel ends the process that takes more time, and gives it no more memory."""

from __future__ import annotations

import mmap
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from model_server.image import Limits

STATM = "/proc/self/statm"
DATA_PAGES = 5
"""Of /proc/self/statm (proc(5)), the pages that RLIMIT_DATA counts, and the stack."""
WORN_SHARE = 8
"""A process that keeps an eighth of the budget is worn out: the next picture would have so much less."""


class Budget:
    """The limits on processor time and memory of ``limits``, for this process from now on.

    To be made once everything else is loaded: the memory that is held by then is not counted.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._statm = os.open(STATM, os.O_RDONLY | os.O_CLOEXEC)
        self._held = self._data_bytes()
        # With its default action the signal ends the process even in the middle of a decoder in C.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Let the block take the budget and no more; beyond it the process ends by SIGPROF, or memory is refused."""
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        ours = self._held + self._limits.memory_bytes
        lower = min((ours, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)))
        resource.setrlimit(resource.RLIMIT_DATA, (lower, hard))
        signal.setitimer(signal.ITIMER_PROF, self._limits.cpu_seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    @property
    def is_worn(self) -> bool:
        """Whether what pictures left behind, in pieces between others or lost by a library, takes from the budget."""
        return self._data_bytes() - self._held > self._limits.memory_bytes // WORN_SHARE

    def could_be_had(self) -> bool:
        """Whether there is memory for the whole budget: where not, it was not the budget that stopped a picture."""
        try:
            mmap.mmap(-1, self._limits.memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except (OSError, MemoryError):
            return False
        return True

    def _data_bytes(self) -> int:
        return int(os.pread(self._statm, 128, 0).split()[DATA_PAGES]) * mmap.PAGESIZE
