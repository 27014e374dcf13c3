"""The queue of predictions to be made: PgQueuer's table, or RabbitMQ where one database is not enough."""

from __future__ import annotations

from model_server.config import ENV_PREFIX, QueueProxySettings
from model_server.errors import SettingsError
from model_server.store.database import Database
from model_server.store.queue.interface import Queue
from model_server.store.queue.postgres import PostgresQueue

__all__ = ["Queue", "open_queue"]


def open_queue(settings: QueueProxySettings, database: Database) -> Queue:
    """Return the queue that the setting names; raises SettingsError where its client is not installed."""
    lease_seconds = settings.dispatch_lease_seconds
    if settings.queue is None or settings.queue.get_secret_value() == "postgres:":
        return PostgresQueue(database, lease_seconds)
    try:
        from model_server.store.queue.broker import Broker
        from model_server.store.queue.rabbitmq import RabbitQueue
    except ModuleNotFoundError as error:
        raise SettingsError(f"{ENV_PREFIX}QUEUE: amqp:// needs {error.name}; install 'model-server[amqp]'.") from None
    return RabbitQueue(
        database,
        Broker(settings.queue.get_secret_value(), settings.queue_name, lease_seconds),
        settings.dispatch_concurrency,
        lease_seconds + settings.predictor_timeout_seconds,
    )
