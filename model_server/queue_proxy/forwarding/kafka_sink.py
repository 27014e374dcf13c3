"""CloudEvents to a topic of Kafka, in binary mode, acknowledged by all in-sync replicas.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

import asyncio
from urllib.parse import unquote, urlsplit

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from model_server.config import ENV_PREFIX
from model_server.errors import SettingsError
from model_server.queue_proxy.forwarding.cloud_event import CONTENT_TYPE, CloudEvent
from model_server.queue_proxy.forwarding.sink import SinkError

PREFIX = "ce_"
DEFAULT_PORT = 9092


class KafkaSink:
    """Sends to ``kafka://host:9092,host:9092/topic``; the key is the prediction's id."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        self._topic = unquote(parts.path.strip("/"))
        if not self._topic or not parts.netloc:
            raise SettingsError(f"{ENV_PREFIX}RESULT_SINK names no host or no topic: kafka://host:9092/topic.")
        hosts = parts.netloc.rpartition("@")[2].split(",")
        self._servers = [host if ":" in host else f"{host}:{DEFAULT_PORT}" for host in hosts]
        self._timeout_seconds = timeout_seconds
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def send(self, event: CloudEvent) -> None:
        """Send one event and wait for its acknowledgement; raises SinkError."""
        headers = [(f"{PREFIX}{name}", value.encode()) for name, value in event.attributes.items()]
        headers.append(("content-type", CONTENT_TYPE.encode()))
        try:
            async with asyncio.timeout(self._timeout_seconds):
                producer = await self._connected()
                await producer.send_and_wait(self._topic, event.data, key=event.id.encode(), headers=headers)
        except TimeoutError:
            raise SinkError("the broker did not answer in time") from None
        except (KafkaError, OSError) as error:
            raise SinkError(f"the broker cannot be reached: {type(error).__name__}") from None

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(bootstrap_servers=self._servers, acks="all", enable_idempotence=True)
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def close(self) -> None:
        """Close the connections."""
        if self._producer is not None:
            await self._producer.stop()
