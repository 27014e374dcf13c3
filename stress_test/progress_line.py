"""One line on a terminal that says how a Locust run goes; quiet in a pipe."""

from __future__ import annotations

import sys
import time
from typing import Any

import gevent
from locust.runners import WorkerRunner

from processes import progress

SECONDS = 1


def show(environment: Any, length: float | None) -> None:
    """Keep the line up to date until Locust ends; ``length`` is how many seconds the run will take, where known."""
    if sys.stderr.isatty() and environment.runner and not isinstance(environment.runner, WorkerRunner):
        gevent.spawn(_loop, environment, length)


def _loop(environment: Any, length: float | None) -> None:
    begun = time.monotonic()
    while environment.runner.state != "stopped":
        total, elapsed = environment.stats.total, time.monotonic() - begun
        of = f" of {length:.0f}" if length else ""
        progress(
            f"{elapsed:.0f}{of} s  {environment.runner.user_count} users  {total.current_rps:.0f} requests/s  "
            f"p95 {total.get_current_response_time_percentile(0.95) or 0:.0f} ms  {total.num_failures} errors"
        )
        gevent.sleep(SECONDS)
    progress("")
