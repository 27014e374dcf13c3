"""Work that nobody waits for: what fails is logged, shows, and is tried again; nothing but a cancellation ends it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from model_server.errors import Unavailable

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.5
"""After a failure, however long the pauses are else."""
LOG_SECONDS = 60
"""A failure that repeats is logged at most so often."""
STUCK_SECONDS = 30
"""What fails for longer needs somebody to look at it."""
PAST_SECONDS = 120
"""A failure that was not followed by another in so long is over: what failed is not there any more."""


class Duty:
    """One piece of work: whether it fails, and since when."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._failing_since: float | None = None
        self._failed_at = float("-inf")
        self._logged: tuple[str, float] = ("", float("-inf"))

    @property
    def is_failing(self) -> bool:
        """Whether it has failed since it last worked."""
        return self.failing_seconds is not None

    @property
    def failing_seconds(self) -> float | None:
        """From its first failure to its last; None: it works."""
        if self._failing_since is None or time.monotonic() - self._failed_at > PAST_SECONDS:
            return None
        return self._failed_at - self._failing_since

    async def repeat(self, work: Callable[[], Awaitable[object]], seconds: float, spread: float = 0) -> NoReturn:
        """Call ``work`` again and again, with pauses of ``seconds``, give or take the share ``spread``."""
        while True:
            with self.trying():
                await work()
                self.works()
            pause = AGAIN_SECONDS if self.is_failing else seconds
            await asyncio.sleep(pause * random.uniform(1 - spread, 1 + spread))  # noqa: S311 - spread, not secrecy

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Let no failure out. A cancellation that is not the task's own is one: libraries cancel what they wait for."""
        try:
            yield
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            self._fails(error)
        except Exception as error:  # noqa: BLE001 - the boundary of the task
            self._fails(error)

    def works(self) -> None:
        """Take note that it has done what it is for."""
        if self._failing_since is not None:
            logger.info("background work goes on: %s", self.name)
            self._failing_since = None

    def _fails(self, error: BaseException) -> None:
        now, kind = time.monotonic(), "; ".join([type(error).__name__, *getattr(error, "__notes__", ())])
        if not self.is_failing:
            self._failing_since = now
        self._failed_at = now
        logged, at = self._logged
        if logged == kind and now - at < LOG_SECONDS:
            return
        self._logged = kind, now
        if isinstance(error, Unavailable | asyncio.CancelledError):
            logger.warning("background work waits: %s: %s", self.name, kind)
        else:
            logger.error("background work fails: %s", self.name, exc_info=error)


class Background:
    """All such work of one process; ``on_new`` is told of each."""

    def __init__(self, on_new: Callable[[Duty], None]) -> None:
        self._on_new = on_new
        self._duties: dict[str, Duty] = {}

    def duty(self, name: str) -> Duty:
        """Return the work of that name, which is known from now on."""
        if name not in self._duties:
            self._duties[name] = Duty(name)
            self._on_new(self._duties[name])
        return self._duties[name]

    @property
    def stuck(self) -> list[str]:
        """The names of what has been failing for too long."""
        return [name for name, duty in self._duties.items() if (duty.failing_seconds or 0) > STUCK_SECONDS]
