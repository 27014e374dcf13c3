"""Hearing of changes: one connection listens, and wakes whoever waits for a prediction or for work."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection as DriverConnection
from psycopg import sql

from model_server.background import Background, Duty
from model_server.store import changes
from model_server.store.database import Database
from model_server.store.models import UNFINISHED
from model_server.store.queue import Queue

RECONNECT_SECONDS = 0.5

OnChange = Callable[[UUID, str], None]


class Watch:
    """Who waits for what in this process. After a gap in listening everybody is woken, to look for themselves."""

    def __init__(self, database: Database, queue: Queue) -> None:
        self._database = database
        self._queue = queue
        self._waiting: dict[UUID, dict[asyncio.Event, bool]] = defaultdict(dict)
        self._on_change: list[OnChange] = []
        self.closing = False

    def close(self) -> None:
        """Wake whoever waits, to answer with what there is: the server is shutting down."""
        self.closing = True
        self._wake_all()

    def on_change(self, tell: OnChange) -> None:
        """Call ``tell(prediction, status)`` on every change that is heard of."""
        self._on_change.append(tell)

    @contextmanager
    def changes_of(self, prediction: UUID, *, end_only: bool = False) -> Iterator[asyncio.Event]:
        """Yield an event that is set at each change of one prediction, or at its end; whoever waits clears it."""
        event = asyncio.Event()
        self._waiting[prediction][event] = end_only
        try:
            yield event
        finally:
            del self._waiting[prediction][event]
            if not self._waiting[prediction]:
                del self._waiting[prediction]

    async def run(self, background: Background) -> None:
        """Listen until cancelled; a lost connection is made again."""
        duty = background.duty("watch")

        async def listen() -> None:
            async with self._database.listening() as connection:
                await self._listen(connection, duty)

        await duty.repeat(listen, RECONNECT_SECONDS)

    async def _listen(self, connection: DriverConnection[Any], duty: Duty) -> None:
        for channel in (changes.CHANNEL, self._queue.channel):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        duty.works()
        self._wake_all()
        async for notice in connection.notifies():
            if notice.channel == changes.CHANNEL:
                self._tell(notice.payload)
            else:
                self._queue.heard(notice.payload)

    def _tell(self, payload: str) -> None:
        for prediction, status in changes.parse(payload):
            for event, end_only in self._waiting.get(prediction, {}).items():
                if not (end_only and status in UNFINISHED):
                    event.set()
            for tell in self._on_change:
                tell(prediction, status)

    def _wake_all(self) -> None:
        self._queue.look()
        for events in self._waiting.values():
            for event in events:
                event.set()
