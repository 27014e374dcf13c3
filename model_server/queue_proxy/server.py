"""The queue-proxy's life: listen, serve, dispatch, drain."""

from __future__ import annotations

import asyncio
import logging
import random
from http import HTTPStatus
from typing import Any

import uvloop
from starlette.types import Scope

from model_server.config import QueueProxySettings
from model_server.errors import Unavailable
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
        background = [asyncio.create_task(one.run()) for one in (parts.watch, parts.metering, learner)]
        if settings.predictors_file:
            background.append(asyncio.create_task(predictors_file.follow(settings.predictors_file, parts.upstream)))
        dispatcher = Dispatcher(parts) if dispatch else None
        delivery = CallbackDelivery(settings, parts.database, parts.watch) if dispatch else None
        forwarding = Forwarding(settings, parts.database, parts.watch) if dispatch else None
        dispatching = asyncio.create_task(dispatcher.run()) if dispatcher else None
        if delivery and forwarding:
            background += [
                asyncio.create_task(parts.queue.run()),
                asyncio.create_task(delivery.run()),
                asyncio.create_task(forwarding.run()),
                asyncio.create_task(_sweep(parts)),
            ]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        logger.info("listening", extra={"http": listener.getsockname()[1], "dispatch": dispatch, "serve": serve})
        await _until_one_ends({serving, *background, *filter(None, [dispatching])}, stopping)
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


async def _until_one_ends(tasks: set[asyncio.Task[Any]], stopping: asyncio.Event) -> None:
    """Wait for the signal; a task that fails before it ends the process, to be started anew."""
    stop = asyncio.create_task(stopping.wait())
    watched = tasks
    while not stop.done():
        done, _ = await asyncio.wait({stop, *watched}, return_when=asyncio.FIRST_COMPLETED)
        watched = watched - done
        for task in done - {stop}:
            if error := task.exception():
                logger.error("a part of the server failed", exc_info=error)
                return


async def _sweep(parts: Parts) -> None:
    """Remove what is past its retention, each replica at times of its own."""
    seconds = min(SWEEP_SECONDS, parts.settings.retention_seconds)
    while True:
        await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - spread, not secrecy
        try:
            predictions, images = await retention.sweep(parts.database, parts.images, parts.settings.retention_seconds)
            await counts.sweep(parts.database)
        except Unavailable:
            continue  # logged where it happened; the next round comes
        metrics.REMOVED.labels("prediction").inc(predictions)
        metrics.REMOVED.labels("image").inc(images)
