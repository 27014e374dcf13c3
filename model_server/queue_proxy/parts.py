"""What the routes and the background work of one process share."""

from __future__ import annotations

from dataclasses import dataclass

from model_server.accounts.authentication import Authentication
from model_server.background import Background, Duty
from model_server.config import QueueProxySettings
from model_server.http.body import Buffer
from model_server.queue_proxy import metrics
from model_server.queue_proxy.admission import Admission
from model_server.queue_proxy.cache import ReplyCache
from model_server.queue_proxy.metering import Metering
from model_server.queue_proxy.predictors_file import first_predictors
from model_server.queue_proxy.resources import Resources
from model_server.queue_proxy.sidecar import Sidecar
from model_server.queue_proxy.split import Split
from model_server.queue_proxy.throttle import Throttle
from model_server.queue_proxy.watch import Watch
from model_server.store.database import Database, url_of
from model_server.store.images import Images
from model_server.store.object_storage import open_storage
from model_server.store.queue import Queue, open_queue


@dataclass(slots=True)
class Parts:
    """Connections and readers; made once, inside the running loop."""

    settings: QueueProxySettings
    buffer: Buffer
    database: Database
    queue: Queue
    images: Images
    authentication: Authentication
    upstream: Split
    sidecar: Sidecar
    cache: ReplyCache
    watch: Watch
    resources: Resources
    metering: Metering
    throttle: Throttle
    admission: Admission
    background: Background

    @classmethod
    def make(cls, settings: QueueProxySettings) -> Parts:
        """Make them; raises SettingsError where the database's URL is wrong."""
        buffer = Buffer(settings.max_buffered_bytes)
        database = Database(url_of(settings), settings.database_connections)
        queue = open_queue(settings, database)
        authentication = Authentication(settings, database)
        metering, throttle = Metering(database), Throttle(settings, database)
        return cls(
            settings,
            buffer,
            database,
            queue,
            Images(database, open_storage(settings.image_store)),
            authentication,
            Split(settings, first_predictors(settings), buffer),
            Sidecar(settings),
            ReplyCache(settings.cache_seconds, settings.cache_bytes),
            Watch(database, queue),
            Resources(settings, database),
            metering,
            throttle,
            Admission(settings, authentication, throttle, metering),
            Background(_measure),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.upstream.close()
        await self.sidecar.close()
        await self.database.close()


def _measure(duty: Duty) -> None:
    metrics.BACKGROUND_FAILING.labels(duty.name).set_function(lambda: duty.is_failing)
