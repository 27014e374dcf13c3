"""Natural micro-batching: a worker takes what is waiting whenever it becomes free. Knows nothing of HTTP or images.

There is no timer. While every worker is busy, work piles up and the next micro-batch is larger; while one is idle, an
item is taken at once and alone. Workers are threads that fetch their own next batch, so that a busy event loop
leaves none of them idle.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """One thread for each of ``workers``, each a function from a micro-batch to as many results, in order.

    An exception of a worker becomes the exception of every item in that micro-batch. Create it inside a running loop.
    """

    def __init__(self, workers: Sequence[Callable[[list[Item]], Iterable[Result]]], *, max_batch: int) -> None:
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[_Job[Item, Result] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, args=(work,), name=f"batcher-{number}", daemon=True)
            for number, work in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Items that no worker has taken yet."""
        return self._waiting.qsize()

    def submit(self, items: Sequence[Item]) -> list[asyncio.Future[Result]]:
        """Queue ``items``, however many wait: the bound is the caller's. Cancelled futures are skipped."""
        jobs = [_Job(item, self._loop.create_future()) for item in items]
        for job in jobs:
            self._waiting.put(job)
        return [job.future for job in jobs]

    async def close(self) -> None:
        """Finish what is queued, then end the threads."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _serve(self, work: Callable[[list[Item]], Iterable[Result]]) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [job for job in (first, *self._take_more()) if not job.future.cancelled()]
            if not batch:
                continue
            try:
                results: Iterable[Result] | Exception = work([job.item for job in batch])
            except Exception as error:  # noqa: BLE001 - the thread outlives its jobs; each of them gets the error
                results = error
            self._loop.call_soon_threadsafe(_deliver, batch, results)

    def _take_more(self) -> list[_Job[Item, Result]]:
        more: list[_Job[Item, Result]] = []
        while len(more) < self._max_batch - 1:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:  # the signal to end: it is for this thread's next round
                self._waiting.put(None)
                break
            more.append(job)
        return more


def _deliver(batch: list[_Job[Item, Result]], results: Iterable[Result] | Exception) -> None:
    if isinstance(results, Exception):
        for job in batch:
            if not job.future.done():
                job.future.set_exception(results)
        return
    for job, result in zip(batch, results, strict=True):
        if not job.future.done():
            job.future.set_result(result)
