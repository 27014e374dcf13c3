"""The connection to RabbitMQ, and the quorum queue in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity
from yarl import URL

from model_server.background import Duty

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.5
ANSWER_SECONDS = 5
"""A broker that takes longer to confirm is as good as away."""
NO_DELIVERY_LIMIT = 1_000_000
"""RabbitMQ 4 drops a message at its 20th redelivery unless the queue says otherwise; 3 knows no `-1` for never."""
BROKER_ERRORS = (AMQPError, OSError, RuntimeError)
"""Whatever aio-pika raises where the broker is away; a closed channel is a RuntimeError."""

Prepare = Callable[[AbstractConnection], Awaitable[None]]
"""Makes the queue where there is none."""


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

    async def waiting(self, connection: AbstractConnection) -> int | None:
        """Return how many messages wait in the queue, None where there is no queue; raises BROKER_ERRORS."""
        try:
            async with connection.channel() as channel:
                queue = await channel.declare_queue(self.queue_name, passive=True, timeout=ANSWER_SECONDS)
                return queue.declaration_result.message_count or 0
        except ChannelNotFoundEntity:
            return None

    async def declare(self, connection: AbstractConnection) -> None:
        """Make the queue; raises BROKER_ERRORS."""
        async with connection.channel() as channel:
            await channel.declare_queue(
                self.queue_name,
                durable=True,
                arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT},
                timeout=ANSWER_SECONDS,
            )

    async def keep(self, duty: Duty, work: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        """Do ``work`` with a connection, and again with a new one whenever it ends, until cancelled.

        A broker that is away is no failure of ours: predictions are accepted meanwhile.
        """
        is_away = False

        async def connected() -> None:
            nonlocal is_away
            try:
                async with await self.connect() as connection:
                    if is_away:
                        logger.info("%s: the broker is back", duty.name)
                    is_away = False
                    await work(connection)
            except BROKER_ERRORS as error:
                if not is_away:
                    logger.warning("%s: the broker is away: %s", duty.name, type(error).__name__)
                is_away = True

        await duty.repeat(connected, RECONNECT_SECONDS)
