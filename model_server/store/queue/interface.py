"""What a queue of predictions has to do; how they are recorded, claimed and ended is the store's business."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from psycopg import AsyncConnection as DriverConnection
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.background import Background

HIGHEST_URGENCY, LOWEST_URGENCY = 0, 7
"""RFC 9218: the lower, the sooner; queues take the higher number first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A prediction that was taken from the queue; ``handle`` is what the queue knows it by."""

    prediction: UUID
    handle: Any = None


class QueueTransaction(Protocol):
    """A transaction of PostgreSQL: what is done with the queue in it holds once it is committed, and else not at all.

    An entry that was taken is ours until it is removed, left or put back, or its process has died.
    """

    @property
    def connection(self) -> AsyncConnection:
        """Return where all else of the transaction is done."""

    async def take(self, most: int) -> list[Entry]:
        """Take up to ``most`` entries that are due, most urgent first."""

    async def remove(self, entries: Sequence[Entry]) -> None:
        """Take entries of what has ended out of the queue for good."""

    async def leave(self, entries: Sequence[Entry]) -> None:
        """Let go of entries whose predictions another worker has claimed since."""

    async def put_back(self, entry: Entry, delay_seconds: float) -> None:
        """Queue a prediction, whose status is ``queued`` again, anew: due after the delay."""


class Queue(Protocol):
    """Tells workers of predictions to be made, each at least once."""

    channel: str
    """Of PostgreSQL's notifications, those that ``heard`` is called with."""
    work: asyncio.Event
    """Set when there may be something to take."""

    async def announce(self, driver: DriverConnection[Any], predictions: Sequence[tuple[UUID, int]]) -> None:
        """Queue predictions, each with its urgency 0..7, in the connection's transaction.

        It fetches nothing: in a pipeline that would end the common journey. Needless announcements do no harm.
        """

    def transaction(self) -> AbstractAsyncContextManager[QueueTransaction]:
        """Begin, and commit at the end; raises DatabaseUnavailable."""

    async def extend(self, entries: Sequence[Entry]) -> None:
        """Give a sign of life for what is being worked on; raises DatabaseUnavailable."""

    def heard(self, payload: str) -> None:
        """Take note of a notification."""

    def look(self) -> None:
        """Look for what is due: a retry, or whatever a notification that was lost has told of."""

    async def run(self, background: Background) -> None:
        """Do, until cancelled, what the queue needs besides; in processes that take from it."""

    async def release(self) -> None:
        """Take no more: the process is stopping. What was taken is still to be removed or put back."""
