"""The queue-proxy's life: listen, serve, dispatch, drain."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

import uvloop
from starlette.types import Scope

from model_server.config import QueueProxySettings
from model_server.http.envelope import RequestEnvelope
from model_server.http.server import Server, listen, stop_signal
from model_server.queue_proxy import apis, app, metrics, predictors_file
from model_server.queue_proxy.callbacks import CallbackDelivery
from model_server.queue_proxy.dispatcher import Dispatcher
from model_server.queue_proxy.forwarding import Forwarding
from model_server.queue_proxy.labels import LabelLearner
from model_server.queue_proxy.metering import Metering
from model_server.queue_proxy.parts import Parts
from model_server.store import metering as counts
from model_server.store import retention

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 60


class RouteMeter:
    """Counts requests by the beginning of their path."""

    def __init__(self, metering: Metering) -> None:
        self._metering = metering

    def begin(self, scope: Scope) -> str | None:
        """Return the route to count a request under, and count it for the statistics."""
        if (name := apis.name_of(scope["path"])) is not None:
            self._metering.called(name)
        return name

    def end(self, label: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        metrics.REQUESTS.labels(label, str(int(status))).inc()
        if status != HTTPStatus.SWITCHING_PROTOCOLS:
            metrics.REQUEST_SECONDS.labels(label).observe(seconds)


def run(settings: QueueProxySettings, *, serve: bool = True, dispatch: bool = True) -> None:
    """Serve, dispatch, or both, until SIGTERM or SIGINT; raises SettingsError where a port is taken."""
    uvloop.run(_run(settings, serve=serve, dispatch=dispatch))


async def _run(settings: QueueProxySettings, *, serve: bool, dispatch: bool) -> None:
    with listen(settings.queue_proxy_host, settings.queue_proxy_port, "QUEUE_PROXY_PORT") as listener:
        parts = Parts.make(settings)
        router = app.build_router(parts) if serve else app.build_operations(parts)
        envelope = RequestEnvelope(router, RouteMeter(parts.metering), settings, parts.buffer)
        server = Server(envelope, settings)
        stopping = stop_signal()
        learner = LabelLearner(parts.database, parts.upstream)
        background = [asyncio.create_task(one.run(parts.background)) for one in (parts.watch, parts.metering, learner)]
        if settings.predictors_file:
            following = predictors_file.follow(settings.predictors_file, parts.upstream, parts.background)
            background.append(asyncio.create_task(following))
        dispatcher = Dispatcher(parts) if dispatch else None
        delivery = CallbackDelivery(settings, parts.database, parts.watch) if dispatch else None
        forwarding = Forwarding(settings, parts.database, parts.watch) if dispatch else None
        dispatching = asyncio.create_task(dispatcher.run()) if dispatcher else None
        if delivery and forwarding:
            background += [
                *(asyncio.create_task(one.run(parts.background)) for one in (parts.queue, delivery, forwarding)),
                asyncio.create_task(_sweep(parts)),
            ]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        logger.info("listening", extra={"http": listener.getsockname()[1], "dispatch": dispatch, "serve": serve})
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        logger.info("stopping: finishing what is in flight")
        parts.watch.close()
        if dispatcher and dispatching:
            dispatcher.stop()
            await dispatching
        server.should_exit = True
        await serving
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if delivery and forwarding:
            await delivery.close()
            await forwarding.close()
        await parts.metering.close()
        await parts.close()
        logger.info("stopped")


async def _sweep(parts: Parts) -> None:
    """Remove what is past its retention, each replica at times of its own."""
    seconds = parts.settings.retention_seconds

    async def sweep() -> None:
        predictions, images = await retention.sweep(parts.database, parts.images, seconds)
        await counts.sweep(parts.database)
        metrics.REMOVED.labels("prediction").inc(predictions)
        metrics.REMOVED.labels("image").inc(images)

    await parts.background.duty("sweep").repeat(sweep, min(SWEEP_SECONDS, seconds), spread=0.5)
