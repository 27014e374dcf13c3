"""Connections that nobody uses, heads that do not end, readers that take nothing: found once a second, and ended."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from typing import Protocol

from model_server.config import ServiceSettings

LINGER_SECONDS, LINGER_BYTES = 5, 64 * 1024 * 1024
"""How long, and for how much, we wait for a caller to stop sending what has been answered already."""

SPARE_SHARE, MOST_SPARE = 4, 256
"""Of the descriptors a quarter, but no more than so many, is left to files, the database and the servers behind us."""


class Peer(Protocol):
    """A connection, as far as it matters here."""

    transport: asyncio.Transport

    @property
    def sent(self) -> int:
        """Bytes that were given to the transport so far."""

    def time_out(self) -> None:
        """Refuse a head that came too slowly, and end."""


@dataclass(slots=True)
class _Lingering:
    until: float
    bytes_left: int


@dataclass(slots=True)
class _Unread:
    taken: int
    since: float


class Connections:
    """All of one server. Each is idle, in the head of a request, busy with a request, or lingering after a reply."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._first_spare = limit - min(limit // SPARE_SHARE, MOST_SPARE)
        self._all: set[Peer] = set()
        # Each in the order of its times.
        self._idle: dict[Peer, float] = {}
        self._in_head: dict[Peer, float] = {}
        self._lingering: dict[Peer, _Lingering] = {}
        self._unread: dict[Peer, _Unread] = {}

    def opened(self, peer: Peer) -> None:
        """Know a new connection; if descriptors run short, the one that has been idle longest is closed for it."""
        # The kernel gives the lowest number that is free: a high one says that nearly all are taken.
        if peer.transport.get_extra_info("socket").fileno() >= self._first_spare:
            self.make_room()
        self._all.add(peer)
        self.idle(peer)

    def make_room(self) -> bool:
        """Close one that has been answered, or else idle or in a head for longest; return whether there was one."""
        oldest = next((peer for known in (self._lingering, self._idle, self._in_head) for peer in known), None)
        if oldest is not None:
            self._abort(oldest)
        return oldest is not None

    def closed(self, peer: Peer) -> None:
        """Forget a connection."""
        self._all.discard(peer)
        self.busy(peer)
        self._lingering.pop(peer, None)
        self._unread.pop(peer, None)

    def idle(self, peer: Peer) -> None:
        """Expect the next request."""
        self._idle[peer] = time.monotonic()

    def in_head(self, peer: Peer) -> None:
        """Expect the rest of a head that has begun."""
        self._idle.pop(peer, None)
        self._in_head.setdefault(peer, time.monotonic())

    def busy(self, peer: Peer) -> None:
        """Expect nothing: a request is being read or answered."""
        self._idle.pop(peer, None)
        self._in_head.pop(peer, None)

    def lingering(self, peer: Peer) -> None:
        """Expect the caller to read the last reply, and to stop sending."""
        self.busy(peer)
        self._lingering[peer] = _Lingering(time.monotonic() + LINGER_SECONDS, LINGER_BYTES)

    def discarded(self, peer: Peer, size: int) -> None:
        """Count what a caller sends after the last reply; too much of it ends the connection."""
        if (lingering := self._lingering.get(peer)) is not None:
            lingering.bytes_left -= size
            if lingering.bytes_left < 0:
                self._abort(peer)

    def sweep(self) -> None:
        """End what has lasted too long."""
        now = time.monotonic()
        for peer in _older(self._idle, now - self._settings.idle_timeout_seconds):
            self.busy(peer)
            peer.transport.close()
        for peer in _older(self._in_head, now - self._settings.head_timeout_seconds):
            self.busy(peer)
            peer.time_out()
        for peer in [peer for peer, lingering in self._lingering.items() if lingering.until < now]:
            self._abort(peer)
        for peer in [peer for peer in self._all if self._has_stalled(peer, now)]:
            self._abort(peer)

    def _has_stalled(self, peer: Peer, now: float) -> bool:
        """Whether a reader has taken nothing for too long of what waits for it."""
        size = peer.transport.get_write_buffer_size()
        if not size:
            self._unread.pop(peer, None)
            return False
        taken = peer.sent - size
        unread = self._unread.setdefault(peer, _Unread(taken, now))
        if taken != unread.taken:
            unread.taken, unread.since = taken, now
        return now - unread.since > self._settings.unread_timeout_seconds

    def _abort(self, peer: Peer) -> None:
        self.busy(peer)
        self._lingering.pop(peer, None)
        peer.transport.abort()


def _older(times: dict[Peer, float], than: float) -> list[Peer]:
    """Return the first of ``times``, which are in order, that are older."""
    found = []
    for peer, since in times.items():
        if since >= than:
            break
        found.append(peer)
    return found
