"""Worker processes that decode for a caller without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_server.classifier import Picture
from model_server.decoding.messages import Decoding
from model_server.decoding.pool import Pool

Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = NDArray[np.uint8]

A_TURN = 8
"""Pictures for each worker in one turn: two turns of encoded pictures are in memory at once."""


class Decoders:
    """``count`` worker processes and the event loop that feeds them, in a thread of its own. Safe for many threads."""

    def __init__(self, decoding: Decoding, count: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="decoders", daemon=True)
        self._thread.start()
        self._count = count
        self._pool = Pool(count)
        self._pool.begin(decoding)
        try:
            self._run(self._pool.start()).result()
        except BaseException:
            self._end_loop()
            raise

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, picture: Picture) -> Pixels:
        """Return pixels uint8 [height, width, 3]; raises what the decoder says of the picture, or Unavailable."""
        (result,) = self._run(self._decode([picture])).result()
        if isinstance(result, BaseException):
            raise result
        pixels: Pixels = result
        return pixels

    def each(
        self, items: Iterable[Item], picture: Callable[[Item], Picture]
    ) -> Iterator[tuple[Item, Pixels | BaseException]]:
        """Yield each item with the pixels of its picture, or with what is wrong with it, in order."""
        remaining = iter(items)
        ahead: list[tuple[list[Item], Future[list[Any]]]] = []
        while True:
            turn = list(islice(remaining, A_TURN * self._count))
            if turn:
                ahead.append((turn, self._run(self._decode([picture(item) for item in turn]))))
            if not ahead:
                return
            if len(ahead) > 1 or not turn:
                done, results = ahead.pop(0)
                yield from zip(done, results.result(), strict=True)

    def close(self) -> None:
        """Drop what is not decoded yet, and end the processes."""
        self._run(self._close()).result()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _decode(self, pictures: Sequence[Picture]) -> list[Any]:
        return await asyncio.gather(*self._pool.submit(pictures), return_exceptions=True)

    async def _close(self) -> None:
        own = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not own:
                task.cancel()
        await self._pool.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
