"""Batching of writes: what arrives while one transaction is under way goes together into the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from model_server.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_TOGETHER = 64


class Gatherer(Generic[Item, Result]):
    """Calls ``write`` with one or more items, one call at a time; each ``put`` returns its own result.

    What ``write`` raises for several is tried again one by one, so that one bad item spoils no other; Unavailable
    concerns all. Before each call it waits for ``linger()`` seconds, where there is reason to expect more.
    """

    def __init__(
        self, write: Callable[[list[Item]], Awaitable[Sequence[Result]]], linger: Callable[[], float] = lambda: 0
    ) -> None:
        self._write = write
        self._linger = linger
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def put(self, item: Item) -> Result:
        """Write an item with whatever else is waiting."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await future

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                if seconds := self._linger():
                    await asyncio.sleep(seconds)
                batch, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
                await self._write_batch(batch)
        finally:
            self._writing = None

    async def _write_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._write([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - it becomes the exception of whoever put the item
            if len(batch) == 1 or isinstance(error, Unavailable):
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                return
            for pair in batch:
                await self._write_batch([pair])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
