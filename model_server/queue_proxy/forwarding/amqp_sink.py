"""CloudEvents to an exchange of RabbitMQ (AMQP 0-9-1), in binary mode, confirmed by the broker.

Attributes are headers named ``cloudEvents:id`` and so on, as the binding for AMQP 1.0 names its properties:
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/amqp-protocol-binding.md
"""

from __future__ import annotations

import asyncio
from urllib.parse import unquote, urlsplit, urlunsplit

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange
from aiormq.exceptions import AMQPError

from model_server.config import ENV_PREFIX
from model_server.errors import SettingsError
from model_server.queue_proxy.forwarding.cloud_event import CONTENT_TYPE, CloudEvent
from model_server.queue_proxy.forwarding.sink import SinkError

PREFIX = "cloudEvents:"


class AmqpSink:
    """Publishes to ``amqp://user:password@host/exchange``, or ``…/vhost/exchange``; routing key: the event's type.

    The exchange is there already: whoever reads from it has declared it.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        vhost, _, exchange = parts.path[1:].rpartition("/")
        if not exchange:
            raise SettingsError(f"{ENV_PREFIX}RESULT_SINK names no exchange: amqp://user:password@host/exchange.")
        self._url = urlunsplit((parts.scheme, parts.netloc, f"/{vhost}", parts.query, ""))
        self._name = unquote(exchange)
        self._timeout_seconds = timeout_seconds
        self._connection: AbstractConnection | None = None
        self._exchange: AbstractExchange | None = None
        self._connecting = asyncio.Lock()

    async def send(self, event: CloudEvent) -> None:
        """Send one event and wait for the broker's word; raises SinkError."""
        message = aio_pika.Message(
            event.data,
            headers={f"{PREFIX}{name}": value for name, value in event.attributes.items()},
            content_type=CONTENT_TYPE,
            message_id=event.id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                exchange = await self._connected()
                await exchange.publish(message, event.type, mandatory=False)
        except TimeoutError:
            await self.close()
            raise SinkError("the broker did not answer in time") from None
        except (AMQPError, OSError, RuntimeError) as error:
            await self.close()
            raise SinkError(f"the broker cannot be reached: {type(error).__name__}") from None

    async def _connected(self) -> AbstractExchange:
        async with self._connecting:
            if self._exchange is None:
                connection = await aio_pika.connect(self._url)
                self._connection = connection
                channel = await connection.channel(publisher_confirms=True)
                self._exchange = await channel.get_exchange(self._name, ensure=True)
            return self._exchange

    async def close(self) -> None:
        """Close the connection; the next event makes another."""
        connection, self._connection, self._exchange = self._connection, None, None
        if connection is not None:
            await connection.close()
