"""From the queue to the predictor and back: bounded, retried, given up at the deadline, written once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from model_server.breaker import Circuit
from model_server.errors import Unavailable, UnstorableValue
from model_server.queue_proxy import metrics
from model_server.queue_proxy.attempt import Away, attempt
from model_server.queue_proxy.contents import Contents
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.split import FAILURES_THAT_OPEN, place
from model_server.store import runs
from model_server.store.gather import Gatherer
from model_server.store.identifiers import place_in
from model_server.store.metering import Usage
from model_server.store.models import CANCELLED
from model_server.store.runs import Claimed, Outcome
from model_server.store.waiting import is_set_within

logger = logging.getLogger(__name__)

DATABASE_PAUSE_SECONDS = 0.5
EXPIRE_SECONDS = 1
AWAY_RETRY_SECONDS = 0.2
"""While the predictor is away the circuit holds the work back, not the clock: it is due as soon as that closes."""
MOST_DOUBLINGS = 32
UNSTORABLE = "The predictor's answer holds a value that cannot be stored."
REFILL_SHARE = 2
"""More is claimed once half of the slots are free: one query then fetches several, and the other half stays busy."""
MANY_SLOTS = 8
LINGER_SECONDS = 0.02
"""While at least half of the slots are taken, results wait so long for others to share their transaction."""


@dataclass(frozen=True, slots=True)
class InFlight:
    """A claimed prediction: its attempt, and the task that sees it through to the database."""

    claimed: Claimed
    attempting: asyncio.Task[Outcome]
    task: asyncio.Task[None]


class Dispatcher:
    """One process's worker. ``run`` works until ``stop``, which finishes what is in flight and gives the rest back."""

    def __init__(self, parts: Parts) -> None:
        settings, upstream, watch = parts.settings, parts.upstream, parts.watch
        self._settings = settings
        self._queue = parts.queue
        self._upstream = upstream
        self._cache = parts.cache
        self._metering = parts.metering
        self._contents = Contents(parts.database, parts.images)
        self._slots = settings.dispatch_concurrency
        # By number: one that has lost its lease is still in flight when the same prediction is claimed again.
        self._in_flight: dict[int, InFlight] = {}
        self._numbers = itertools.count()
        self._background = parts.background
        self._claiming, self._writing = parts.background.duty("dispatch"), parts.background.duty("results")
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._writer: Gatherer[Outcome, None] = Gatherer(self._write, self._linger)
        self.circuit = Circuit(upstream.is_ready, FAILURES_THAT_OPEN)
        watch.on_change(self._heard)
        metrics.CIRCUIT_OPEN.set_function(lambda: self.circuit.is_open)
        metrics.IN_FLIGHT.set_function(lambda: len(self._in_flight))

    async def run(self) -> None:
        """Work until stopped."""
        beat, expire = self._background.duty("beat"), self._background.duty("expire")
        beating = asyncio.create_task(beat.repeat(self._beat, self._settings.dispatch_lease_seconds / 3))
        expiring = asyncio.create_task(expire.repeat(self._expire, EXPIRE_SECONDS))
        try:
            while not self._stopping.is_set():
                with self._claiming.trying():
                    await self._take()
                if self._claiming.is_failing:
                    await self._or_stop(asyncio.sleep(DATABASE_PAUSE_SECONDS))
            with self._claiming.trying():
                await self._queue.release()
            with self._writing.trying():
                await self._finish_in_flight()
        finally:
            for task in (beating, expiring):
                task.cancel()
            await self.circuit.close()

    def stop(self) -> None:
        """Take no more work; ``run`` returns when what is in flight has ended."""
        self._stopping.set()
        self._queue.work.set()
        self._slot_freed.set()

    async def _take(self) -> None:
        """Claim what there are slots for, or wait for slots, work or the predictor."""
        if self.circuit.is_open:
            await self._or_stop(self.circuit.wait_until_closed())
            return
        free = self._slots - len(self._in_flight)
        if free < max(1, self._slots // REFILL_SHARE):
            self._slot_freed.clear()
            await self._slot_freed.wait()
            return
        self._queue.work.clear()
        claimed = await runs.claim(self._queue, free)
        self._claiming.works()
        for one in claimed:
            self._begin(one)
        if len(claimed) < free:
            await is_set_within(self._queue.work, self._settings.dispatch_poll_seconds)

    def _begin(self, claimed: Claimed) -> None:
        metrics.DISPATCH_SECONDS.observe(claimed.seconds_waited)
        attempting = asyncio.create_task(self._attempt(claimed))
        number = next(self._numbers)
        task = asyncio.create_task(self._work(number, claimed, attempting))
        self._in_flight[number] = InFlight(claimed, attempting, task)

    async def _work(self, number: int, claimed: Claimed, attempting: asyncio.Task[Outcome]) -> None:
        end = time.monotonic() + claimed.seconds_left
        try:
            await asyncio.wait([attempting])
            outcome = _cancelled(claimed) if attempting.cancelled() else attempting.result()
            await self._write_until_written(outcome, end)
        finally:
            attempting.cancel()
            del self._in_flight[number]
            self._slot_freed.set()

    async def _attempt(self, claimed: Claimed) -> Outcome:
        begun = time.perf_counter()
        place.set(place_in(claimed.id))
        try:
            outcome = await attempt(self._upstream, self._cache, self._contents, claimed)
        except Away as reason:
            self.circuit.failed()
            metrics.ATTEMPTS.labels("away").inc()
            delay = self._backoff(claimed) if reason.busy else AWAY_RETRY_SECONDS
            return self._again(claimed, str(reason), delay)
        except Exception:
            logger.exception("attempt failed", extra={"prediction_id": str(claimed.id)})
            return self._again(claimed, "The attempt failed; the server's log has the reason.", self._backoff(claimed))
        self.circuit.succeeded()
        seconds = time.perf_counter() - begun
        metrics.ATTEMPT_SECONDS.observe(seconds)
        self._metering.used(claimed.user_id, Usage(compute_seconds=seconds))
        metrics.ATTEMPTS.labels(_kind(outcome)).inc()
        if outcome.retry_seconds is None:
            return outcome
        return self._again(claimed, str((outcome.error or {}).get("message", "")), self._backoff(claimed))

    def _backoff(self, claimed: Claimed) -> float:
        doubled = math.ldexp(self._settings.retry_first_seconds, min(claimed.attempts - 1, MOST_DOUBLINGS))
        return min(doubled, self._settings.retry_most_seconds)

    def _again(self, claimed: Claimed, reason: str, delay: float) -> Outcome:
        logger.info("attempt failed", extra={"prediction_id": str(claimed.id), "reason": reason})
        jittered = delay * random.uniform(0.5, 1.5)  # noqa: S311 - spread, not secrecy
        return Outcome(claimed, error={"code": "attempt_failed", "message": reason}, retry_seconds=jittered)

    def _wake_in(self, seconds: float) -> None:
        """Look at the queue when a retry is due: of that there is no notification."""
        asyncio.get_running_loop().call_later(seconds + 0.01, self._queue.look)

    async def _write_until_written(self, outcome: Outcome, end: float) -> None:
        """Write how a run ended, however long the database is away: the result is held until then.

        One that it refuses is held until the deadline, ``end``, when the prediction fails.
        """
        is_over = False
        while not is_over:
            with self._writing.trying():
                await self._put(outcome, end)
                self._writing.works()
                is_over = True
            if not is_over:
                await asyncio.sleep(DATABASE_PAUSE_SECONDS)

    async def _put(self, outcome: Outcome, end: float) -> None:
        """Write how a run ended; a result that cannot be stored is as good as a failed attempt."""
        try:
            await self._writer.put(outcome)
        except UnstorableValue:
            await self._writer.put(self._again(outcome.claimed, UNSTORABLE, self._backoff(outcome.claimed)))
        except Exception as error:
            if isinstance(error, Unavailable) or time.monotonic() < end:
                raise
            logger.exception("result given up", extra={"prediction_id": str(outcome.claimed.id)})

    def _linger(self) -> float:
        return LINGER_SECONDS if len(self._in_flight) * REFILL_SHARE >= max(self._slots, MANY_SLOTS) else 0

    async def _write(self, outcomes: list[Outcome]) -> list[None]:
        written = await runs.finish(self._queue, outcomes)
        for outcome in outcomes:
            if outcome.claimed.id not in written:
                metrics.DISCARDED.inc()
                logger.info(
                    "result discarded: cancelled, late, or run elsewhere",
                    extra={"prediction_id": str(outcome.claimed.id)},
                )
            elif outcome.retry_seconds is not None:
                self._wake_in(outcome.retry_seconds)
            else:
                metrics.RESULTS.labels("failed" if outcome.error else "succeeded").inc()
        return [None] * len(outcomes)

    def _heard(self, prediction: UUID, status: str) -> None:
        """End the attempt of a prediction that was cancelled."""
        if status == CANCELLED:
            for one in self._in_flight.values():
                if one.claimed.id == prediction:
                    one.attempting.cancel()

    async def _beat(self) -> None:
        if self._in_flight:
            await self._queue.extend([one.claimed.entry for one in self._in_flight.values()])

    async def _expire(self) -> None:
        if expired := await runs.expire(self._queue):
            metrics.RESULTS.labels("failed").inc(expired)
            logger.info("predictions past their deadline", extra={"count": expired})

    async def _or_stop(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait, but no longer than until ``stop``."""
        task, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        task.cancel()

    async def _finish_in_flight(self) -> None:
        """Wait for what is in flight; what outlasts the grace is given back, to be run elsewhere."""
        tasks = {one.task for one in self._in_flight.values()}
        if not tasks:
            return
        logger.info("stopping: finishing predictions in flight", extra={"count": len(tasks)})
        _, late = await asyncio.wait(tasks, timeout=self._settings.shutdown_grace_seconds * 0.8)
        left = [one.claimed for one in self._in_flight.values() if one.task in late]
        for task in late:
            task.cancel()
        if left:
            await asyncio.wait(late)
            reason = {"code": "attempt_failed", "message": "The worker was stopped."}
            await runs.finish(self._queue, [Outcome(one, error=reason, retry_seconds=0) for one in left])


def _cancelled(claimed: Claimed) -> Outcome:
    """Return an outcome that is not written, the prediction being cancelled, and takes its entry out of the queue."""
    return Outcome(claimed, error={"code": "cancelled", "message": "The prediction was cancelled."})


def _kind(outcome: Outcome) -> str:
    if outcome.retry_seconds is not None:
        return "retried"
    return "rejected" if outcome.error else "succeeded"
