"""Finished predictions as CloudEvents, to whoever wants all of them: a webhook or broker, Kafka, RabbitMQ."""

from __future__ import annotations

from model_server.background import Background
from model_server.config import ENV_PREFIX, QueueProxySettings
from model_server.errors import SettingsError
from model_server.queue_proxy import metrics
from model_server.queue_proxy.delivery import Delivery, Patience
from model_server.queue_proxy.forwarding.cloud_event import event_of
from model_server.queue_proxy.forwarding.sink import Sink, SinkError
from model_server.queue_proxy.watch import Watch
from model_server.store.database import Database
from model_server.store.models import Record

FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 1.0, 60.0


class Forwarding:
    """Sends every finished prediction to the sink, at least once; tries as long as the prediction is kept."""

    def __init__(self, settings: QueueProxySettings, database: Database, watch: Watch) -> None:
        self._sink = open_sink(settings)
        patience = Patience(settings.callback_timeout_seconds, None, FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS)
        self._delivery = Delivery(
            "sink", self._send, patience=patience, outcomes=metrics.FORWARDED, database=database, watch=watch
        )

    async def run(self, background: Background) -> None:
        """Send, where there is a sink."""
        if self._sink is not None:
            await self._delivery.run(background)

    async def close(self) -> None:
        """Close the connections."""
        if self._sink is not None:
            await self._sink.close()

    async def _send(self, row: Record) -> str | None:
        assert self._sink is not None  # noqa: S101 - without it nothing runs
        try:
            await self._sink.send(event_of(row))
        except SinkError as error:
            return str(error)
        return None


def open_sink(settings: QueueProxySettings) -> Sink | None:
    """Return the sink that the setting names; raises SettingsError where its client is not installed."""
    if settings.result_sink is None:
        return None
    url = settings.result_sink.get_secret_value()
    scheme, seconds = url.partition("://")[0], settings.callback_timeout_seconds
    try:
        if scheme == "kafka":
            from model_server.queue_proxy.forwarding.kafka_sink import KafkaSink

            return KafkaSink(url, seconds)
        if scheme in {"amqp", "amqps"}:
            from model_server.queue_proxy.forwarding.amqp_sink import AmqpSink

            return AmqpSink(url, seconds)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{ENV_PREFIX}RESULT_SINK: {scheme}:// needs {error.name}; install 'model-server[{scheme.rstrip('s')}]'."
        ) from None
    from model_server.queue_proxy.forwarding.http_sink import HttpSink

    return HttpSink(url, seconds)
