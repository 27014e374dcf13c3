"""The connection to RabbitMQ, and the quorum queue in it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractQueue
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity
from yarl import URL

from model_server.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.5
ANSWER_SECONDS = 5
"""A broker that takes longer to confirm is as good as away."""
NO_DELIVERY_LIMIT = 1_000_000
"""RabbitMQ 4 drops a message at its 20th redelivery unless the queue says otherwise; 3 knows no `-1` for never."""
BROKER_ERRORS = (AMQPError, OSError, RuntimeError)
"""Whatever aio-pika raises where the broker is away; a closed channel is a RuntimeError."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the queue is. A connection that gives no sign of life for ``lease_seconds`` is given up by either side."""

    url: str
    queue_name: str
    lease_seconds: float

    async def connect(self) -> AbstractConnection:
        """Return a new connection; raises BROKER_ERRORS."""
        # The broker waits for two heartbeats.
        heartbeat = max(1, math.floor(self.lease_seconds / 2))
        url = URL(self.url)
        if "heartbeat" not in url.query:
            url = url.update_query(heartbeat=heartbeat)
        return await aio_pika.connect(url, timeout=ANSWER_SECONDS)

    async def declare(self, connection: AbstractConnection) -> int:
        """Make the queue where there is none, and return how many messages wait in it; raises BROKER_ERRORS.

        One that is there is used as it is: its owner may have given it other arguments.
        """
        try:
            async with connection.channel() as channel:
                return _waiting(await channel.declare_queue(self.queue_name, passive=True, timeout=ANSWER_SECONDS))
        except ChannelNotFoundEntity:
            async with connection.channel() as channel:
                declared = channel.declare_queue(
                    self.queue_name,
                    durable=True,
                    arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT},
                    timeout=ANSWER_SECONDS,
                )
                return _waiting(await declared)

    async def keep(self, name: str, work: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        """Run ``work`` with a connection, and again with a new one whenever it ends, until cancelled."""
        while True:
            try:
                async with await self.connect() as connection:
                    await work(connection)
            except BROKER_ERRORS as error:
                logger.warning("%s: the broker is away: %s", name, type(error).__name__)
            except DatabaseUnavailable:
                pass  # the transaction has logged it
            except asyncio.CancelledError:
                # What waits for a broker's answer may be cancelled with the connection; we are not, then.
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
            await asyncio.sleep(RECONNECT_SECONDS)


def _waiting(queue: AbstractQueue) -> int:
    return queue.declaration_result.message_count or 0
