"""Replies of the predictor, kept for a while; and identical requests in flight, asked for once.

One cache serves both doors of a process: an image that is sent as it is has the same key, synchronous or queued.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from model_server.schema import CacheUse

ENTRY_BYTES = 1100
"""What Python takes for an entry besides the bytes in it, measured with five headers."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply; header names and values as ASGI has them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    version: str | None

    @property
    def is_shared(self) -> bool:
        """Whether others may have it: a success, in no encoding that only some callers accept."""
        return self.status == HTTPStatus.OK and all(name != b"content-encoding" for name, _ in self.headers)

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key == wanted), None)


class ReplyCache:
    """Least recently used replies within ``most_bytes``, each for ``seconds``."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, tuple[float, Reply]] = OrderedDict()
        self._in_flight: dict[bytes, asyncio.Future[Reply | None]] = {}

    async def obtain(
        self, key: bytes, version: str | None, fetch: Callable[[], Awaitable[Reply]]
    ) -> tuple[Reply, CacheUse | None]:
        """Return a kept reply, that of an identical request in flight, or a fetched one; and which it was."""
        if kept := self.get(key, version):
            return kept, "hit"
        return await self.join(key, fetch)

    async def join(self, key: bytes, fetch: Callable[[], Awaitable[Reply]]) -> tuple[Reply, CacheUse | None]:
        """Return the reply of an identical request in flight, or a fetched one; and which it was."""
        if (other := self._in_flight.get(key)) and (reply := await asyncio.shield(other)):
            return reply, "collapsed"
        return await self._lead(key, fetch), None

    async def _lead(self, key: bytes, fetch: Callable[[], Awaitable[Reply]]) -> Reply:
        """Fetch a reply for all who ask the same meanwhile; where it is not to be shared, each asks for itself."""
        mine: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._in_flight.setdefault(key, mine)
        shared = None
        try:
            reply = await fetch()
            if reply.is_shared:
                shared = reply
                self.put(key, reply)
            return reply
        finally:
            mine.set_result(shared)
            if self._in_flight.get(key) is mine:
                del self._in_flight[key]

    def get(self, key: bytes, version: str | None) -> Reply | None:
        """Return a reply that is young enough and of the version that answered last."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if time.monotonic() - kept[0] > self._seconds or kept[1].version != version:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def put(self, key: bytes, reply: Reply) -> None:
        """Keep a reply, and let go of the oldest beyond the limit."""
        if key in self._kept:
            self._drop(key)
        self._kept[key] = time.monotonic(), reply
        self._bytes += _size(key, reply)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        _, reply = self._kept.pop(key)
        self._bytes -= _size(key, reply)


def _size(key: bytes, reply: Reply) -> int:
    return ENTRY_BYTES + len(key) + len(reply.body) + sum(len(name) + len(value) for name, value in reply.headers)
