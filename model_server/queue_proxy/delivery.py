"""Delivering finished predictions to a receiver: a few at once, with patience; several processes share the work."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter as Numbers
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from prometheus_client import Counter

from model_server.background import Background, Duty
from model_server.queue_proxy.watch import Watch
from model_server.store import callbacks
from model_server.store.callbacks import Receiver
from model_server.store.database import Database
from model_server.store.models import UNFINISHED, Record
from model_server.store.waiting import is_set_within

logger = logging.getLogger(__name__)

AT_ONCE, AT_ONCE_PER_HOST = 40, 10
"""A host that answers slowly leaves room for others."""
POLL_SECONDS = 2
LEASE_MARGIN_SECONDS = 30
RETRY_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one delivery takes at most, how often it is tried, None: for ever, and how the waits grow."""

    timeout_seconds: float
    attempts: int | None
    first_seconds: float
    most_seconds: float

    def wait_seconds(self, tried: int) -> float:
        """Return the wait after ``tried`` attempts, three times the one before, give or take a quarter."""
        delay = min(self.first_seconds * math.pow(RETRY_FACTOR, min(tried - 1, 16)), self.most_seconds)
        return delay * random.uniform(0.75, 1.25)  # noqa: S311 - spread, not secrecy


class Delivery:
    """One receiver's. ``send`` returns what went wrong, None where the receiver has confirmed."""

    def __init__(  # noqa: PLR0913 - what a receiver is made of
        self,
        receiver: Receiver,
        send: Callable[[Record], Awaitable[str | None]],
        *,
        patience: Patience,
        outcomes: Counter,
        database: Database,
        watch: Watch,
    ) -> None:
        self._receiver: Receiver = receiver
        self._send = send
        self._patience = patience
        self._outcomes = outcomes
        self._database = database
        self._in_flight: Numbers[str] = Numbers()
        self._due = asyncio.Event()
        watch.on_change(self._heard)

    async def run(self, background: Background) -> None:
        """Deliver what is due, as there is room, then wait for the next end of a prediction; until cancelled."""
        taking, sending = background.duty(f"{self._receiver}: take"), background.duty(f"{self._receiver}: send")
        async with asyncio.TaskGroup() as group:

            async def begin() -> None:
                self._due.clear()
                rows = await self._take()
                taking.works()
                for row in rows:
                    self._in_flight[row.host] += 1
                    group.create_task(self._see_through(row, sending))
                if not rows:
                    await is_set_within(self._due, POLL_SECONDS)

            await taking.repeat(begin, 0)

    async def _take(self) -> list[Record]:
        """Return what is due and has room, whichever host it is for."""
        numbers = self._in_flight.values()
        busy = [host for host, number in self._in_flight.items() if number == AT_ONCE_PER_HOST]
        most_elsewhere = max((number for number in numbers if number < AT_ONCE_PER_HOST), default=0)
        room = min(AT_ONCE - sum(numbers), AT_ONCE_PER_HOST - most_elsewhere)
        lease = self._patience.timeout_seconds + LEASE_MARGIN_SECONDS
        return await callbacks.take_due(self._database, self._receiver, room, lease, busy) if room else []

    async def _see_through(self, row: Record, duty: Duty) -> None:
        try:
            with duty.trying():  # it is due again when the lease ends
                await self._deliver(row)
                duty.works()
        finally:
            self._in_flight -= Numbers([row.host])
            self._due.set()

    def _heard(self, _prediction: UUID, status: str) -> None:
        if status not in UNFINISHED:
            self._due.set()

    async def _deliver(self, row: Record) -> None:
        problem = await self._send(row)
        if problem is None:
            self._outcomes.labels("delivered").inc()
            await callbacks.delivered(self._database, self._receiver, row.id)
            return
        last = self._patience.attempts is not None and row.tried >= self._patience.attempts
        self._outcomes.labels("given_up" if last else "retried").inc()
        fields = {"prediction_id": str(row.id), "attempt": row.tried, "reason": problem}
        logger.info("%s failed", self._receiver, extra=fields)
        wait = None if last else self._patience.wait_seconds(row.tried)
        await callbacks.failed(self._database, self._receiver, row.id, problem, wait)
