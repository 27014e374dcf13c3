"""Counting without waiting: in memory at each request, in PostgreSQL once a second and at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from datetime import UTC, date, datetime
from uuid import UUID

from model_server.background import Background
from model_server.errors import DatabaseError
from model_server.store import metering
from model_server.store.database import Database
from model_server.store.metering import UNITS, CallKey, Usage, UsageKey

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1


class Metering:
    """What this process has counted and not written yet. Nothing in it waits but ``flush`` and ``run``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._calls: Counter[tuple[str, int]] = Counter()
        self._usage: dict[UsageKey, Usage] = {}
        self._writing = asyncio.Lock()
        self._day: tuple[int, date] = (-1, date.min)

    def called(self, api: str) -> None:
        """Count a call of a route."""
        self._calls[api, int(time.time())] += 1

    def used(self, user: UUID | None, usage: Usage) -> None:
        """Count what somebody took; None: somebody unknown."""
        key = user, self._today()
        if (sum_so_far := self._usage.get(key)) is None:
            self._usage[key] = usage
        else:
            sum_so_far.add(usage)

    def _today(self) -> date:
        number = int(time.time()) // UNITS["day"]
        if self._day[0] != number:
            self._day = number, datetime.now(UTC).date()
        return self._day[1]

    async def run(self, background: Background) -> None:
        """Write every second until cancelled; what the database does not take now is written later."""
        # Shielded, so that nobody has to guess whether what was cancelled is written.
        await background.duty("metering").repeat(lambda: asyncio.shield(self.flush()), FLUSH_SECONDS)

    async def flush(self) -> None:
        """Write what is counted; and keep what cannot be written; raises as ``metering.add`` does."""
        async with self._writing:
            calls, self._calls = self._calls, Counter()
            usage, self._usage = self._usage, {}
            if not calls and not usage:
                return
            try:
                await metering.add(self._database, _by_window(calls), usage)
            except BaseException:
                self._keep(calls, usage)
                raise

    def _keep(self, calls: Counter[tuple[str, int]], usage: dict[UsageKey, Usage]) -> None:
        """Take back what could not be written, of calls one number a minute: an outage may last."""
        for (api, second), number in calls.items():
            self._calls[api, second - second % UNITS["minute"]] += number
        for (user, day), amount in usage.items():
            if (newer := self._usage.get((user, day))) is not None:
                amount.add(newer)
            self._usage[user, day] = amount

    async def calls_now(self, api: str, unit: str) -> int:
        """Return the calls of a route in the current window, this process's to the last, others' to the last second."""
        await self.flush()
        now, seconds = int(time.time()), UNITS[unit]
        return await metering.calls_in(self._database, api, unit, now - now % seconds)

    async def close(self) -> None:
        """Write the rest."""
        try:
            await self.flush()
        except DatabaseError:
            logger.warning("counts of the last seconds are lost: the database does not take them")


def _by_window(calls: Counter[tuple[str, int]]) -> Counter[CallKey]:
    windows: Counter[CallKey] = Counter()
    for (api, second), number in calls.items():
        for unit, seconds in UNITS.items():
            windows[api, unit, second - second % seconds] += number
    return windows
