"""A quorum queue of RabbitMQ holds ids. PostgreSQL stays the record; an outbox in it has what is to be published."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from aio_pika.abc import AbstractConnection
from psycopg import AsyncConnection as DriverConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.background import Background
from model_server.store.database import Database, driver_of
from model_server.store.queue import outbox
from model_server.store.queue.broker import Broker
from model_server.store.queue.consumer import Consumer
from model_server.store.queue.interface import Entry
from model_server.store.queue.relay import Relay

logger = logging.getLogger(__name__)

DECLARING = 7_305_809_154_024
"""Advisory lock of who makes the broker's queue; any constant, the same in every version."""


class RabbitTransaction:
    """What is to be announced is in the transaction; what is done with messages follows its end."""

    def __init__(
        self, connection: AsyncConnection, consumer: Consumer, taken: list[Entry], settled: list[Entry]
    ) -> None:
        self.connection = connection
        self._consumer = consumer
        self._taken = taken
        self._settled = settled

    async def take(self, most: int) -> list[Entry]:
        """Take what the broker has delivered."""
        entries = self._consumer.take(most)
        self._taken += entries
        return entries

    async def remove(self, entries: Sequence[Entry]) -> None:
        """Acknowledge the messages after the commit."""
        self._settled += entries

    async def leave(self, entries: Sequence[Entry]) -> None:
        """Acknowledge the messages: the other worker has one of its own."""
        await self.remove(entries)

    async def put_back(self, entry: Entry, delay_seconds: float) -> None:
        """Announce the prediction anew, in place of its message."""
        await outbox.put(await driver_of(self.connection), [entry.prediction], delay_seconds)
        await self.remove([entry])


class RabbitQueue:
    """The broker gives what a worker took to another once that one's connection is lost: heartbeats are its lease.

    ``most`` are delivered to this process at once. A prediction that has been running for ``abandoned_seconds`` while
    the broker's queue is empty has no worker any more.
    """

    channel: str = outbox.CHANNEL

    def __init__(self, database: Database, broker: Broker, most: int, abandoned_seconds: float) -> None:
        self._database = database
        self._broker = broker
        self._abandoned_seconds = abandoned_seconds
        self._relay = Relay(database, broker, self._prepare)
        self._consumer = Consumer(broker, most, self._prepare, self._announce_again)
        self.work = self._consumer.work

    async def announce(self, driver: DriverConnection[Any], predictions: Sequence[tuple[UUID, int]]) -> None:
        """Put them into the outbox; their urgency is the rows'."""
        await outbox.put(driver, [prediction for prediction, _ in predictions])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[RabbitTransaction]:
        """Begin, and commit at the end; messages are acknowledged then, or, where it fails, taken again."""
        taken: list[Entry] = []
        settled: list[Entry] = []
        try:
            async with self._database.transaction() as connection:
                yield RabbitTransaction(connection, self._consumer, taken, settled)
        except BaseException:
            self._consumer.undo(taken)
            raise
        await self._consumer.settle(settled)

    async def extend(self, entries: Sequence[Entry]) -> None:
        """Do nothing: the connection gives signs of life by itself."""

    def heard(self, payload: str) -> None:  # noqa: ARG002 - it only says that there is something
        """Publish what was put into the outbox."""
        self._relay.due.set()

    def look(self) -> None:
        """Publish what is due, and wake whoever takes."""
        self._relay.due.set()
        self.work.set()

    async def run(self, background: Background) -> None:
        """Publish and receive until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay.run(background.duty("queue: publish")))
            group.create_task(self._relay.take_over(background.duty("queue: take over")))
            group.create_task(self._consumer.run(background.duty("queue: receive")))

    async def release(self) -> None:
        """Give back what was delivered and not taken."""
        await self._consumer.release()

    async def _prepare(self, connection: AbstractConnection) -> None:
        """Make the queue where there is none, to hold all that waits. One that is there is used as it is."""
        if await self._broker.waiting(connection) is not None:
            return
        # One after the other: who comes second finds the queue, and announces nothing twice.
        async with self._database.transaction() as transaction:
            await transaction.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": DECLARING})
            if await self._broker.waiting(connection) is None:
                await self._announce_again()
                await self._broker.declare(connection)

    async def _announce_again(self) -> None:
        """Announce everything anew that an empty queue should hold: it is new, or a broker has lost its data."""
        if put := await outbox.put_unfinished(self._database, self._abandoned_seconds):
            logger.info("the broker's queue is empty: predictions are announced again", extra={"count": put})
        self._relay.due.set()
