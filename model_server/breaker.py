"""Holding back: how much is in flight and how much waits, and a circuit that opens while the other side is down.

Pure asyncio; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from model_server.errors import Overloaded

PROBE_SECONDS = 0.25
"""How often the other side is asked whether it is back: work resumes well within a second of its return."""


class Breaker:
    """At most ``in_flight`` at once and ``waiting`` behind them, first come, first served."""

    def __init__(self, in_flight: int, waiting: int) -> None:
        self._free = in_flight
        self._most_waiting = waiting
        self._queue: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._queue)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot; raises Overloaded where too many wait already."""
        await self._acquire()
        try:
            yield
        finally:
            self._release()

    async def _acquire(self) -> None:
        if not self._free:
            if len(self._queue) >= self._most_waiting:
                raise Overloaded(
                    f"{self.in_flight} requests are in flight and {len(self._queue)} wait. Try again later."
                )
            await self._wait()  # a slot is handed over, never freed in between
            return
        self._free -= 1
        self.in_flight += 1

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            else:
                with suppress(ValueError):  # _release has met it already
                    self._queue.remove(turn)
            raise

    def _release(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        self.in_flight -= 1


class Circuit:
    """Closed while calls succeed; opens after ``threshold`` failures in a row and closes when ``probe`` says so."""

    def __init__(self, probe: Callable[[], Awaitable[bool]], threshold: int) -> None:
        self._probe = probe
        self._threshold = threshold
        self._failures = 0
        self._closed = asyncio.Event()
        self._closed.set()
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return not self._closed.is_set()

    def succeeded(self) -> None:
        """Count a call that was answered, in whatever way."""
        self._failures = 0

    def failed(self) -> None:
        """Count a call to which nobody answered."""
        self._failures += 1
        if self._failures >= self._threshold and not self.is_open:
            self._closed.clear()
            self._probing = asyncio.create_task(self._probe_until_back())

    async def wait_until_closed(self) -> None:
        """Return at once while the circuit is closed, else when it closes."""
        await self._closed.wait()

    async def close(self) -> None:
        """End the probing."""
        if self._probing:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    async def _probe_until_back(self) -> None:
        while True:
            if await self._probe():
                break
            await asyncio.sleep(PROBE_SECONDS)
        self._failures = 0
        self._closed.set()
