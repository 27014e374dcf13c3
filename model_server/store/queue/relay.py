"""From the outbox to the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from model_server.background import Duty
from model_server.store.database import Database
from model_server.store.models import Record
from model_server.store.queue import outbox
from model_server.store.queue.broker import ANSWER_SECONDS, Broker, Prepare
from model_server.store.queue.interface import LOWEST_URGENCY
from model_server.store.waiting import is_set_within

logger = logging.getLogger(__name__)

PUBLISHED_AT_ONCE = 200
LOOK_SECONDS = 1
"""How often the outbox is looked at without a notification: for retries of a process that has died."""
TAKE_OVER_SECONDS = 10


class Relay:
    """Publishes what is due, each message confirmed by the broker before it is forgotten here."""

    def __init__(self, database: Database, broker: Broker, prepare: Prepare) -> None:
        self._database = database
        self._broker = broker
        self._prepare = prepare
        self.due = asyncio.Event()

    async def run(self, duty: Duty) -> None:
        """Publish until cancelled; while the broker is away, the outbox grows."""
        await self._broker.keep(duty, lambda connection: self._publish_all(connection, duty))

    async def _publish_all(self, connection: AbstractConnection, duty: Duty) -> None:
        await self._prepare(connection)
        async with connection.channel(publisher_confirms=True, on_return_raises=True) as channel:
            while not channel.is_closed:
                self.due.clear()
                published = await outbox.publish(
                    self._database, PUBLISHED_AT_ONCE, lambda rows: self._publish(channel, rows)
                )
                duty.works()
                if published < PUBLISHED_AT_ONCE:
                    await is_set_within(self.due, LOOK_SECONDS)

    async def _publish(self, channel: AbstractChannel, rows: Sequence[Record]) -> None:
        """Publish in this order and wait for all confirmations; raises BROKER_ERRORS."""
        exchange = channel.default_exchange
        messages = (_message(row) for row in rows)
        async with asyncio.timeout(ANSWER_SECONDS):
            await asyncio.gather(*(exchange.publish(message, self._broker.queue_name) for message in messages))

    async def take_over(self, duty: Duty) -> None:
        """Announce, until cancelled, what replicas on the other queue leave behind."""
        await duty.repeat(self._take_over, TAKE_OVER_SECONDS)

    async def _take_over(self) -> None:
        while taken := await outbox.take_over(self._database, PUBLISHED_AT_ONCE, self._broker.lease_seconds):
            logger.info("predictions taken over from another queue", extra={"count": taken})


def _message(row: Record) -> aio_pika.Message:
    """Return a prediction's id. Quorum queues know two urgencies, from RabbitMQ 4 on: 0 to 2, and the others."""
    identifier = str(row.prediction_id)
    return aio_pika.Message(
        identifier.encode(),
        content_type="text/plain",
        message_id=identifier,
        priority=LOWEST_URGENCY - row.priority,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
