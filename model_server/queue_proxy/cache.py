"""Replies to synchronous predictions, kept for a while; and identical ones in flight, asked for once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply; header names and values as ASGI has them."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    version: str | None


class ReplyCache:
    """Least recently used replies within ``most_bytes``, each for ``seconds``."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, tuple[float, Reply]] = OrderedDict()
        self.in_flight: dict[bytes, asyncio.Future[Reply | None]] = {}

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
    return len(key) + len(reply.body) + sum(len(name) + len(value) for name, value in reply.headers)
