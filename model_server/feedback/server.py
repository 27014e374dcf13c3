"""The feedback service's life: listen, serve, drain."""

from __future__ import annotations

import asyncio
import logging

import uvloop
from starlette.types import Scope

from model_server.config import FeedbackSettings
from model_server.feedback import app, metrics
from model_server.feedback.parts import Parts
from model_server.http.envelope import RequestEnvelope
from model_server.http.server import Server, listen, stop_signal

logger = logging.getLogger(__name__)

ROUTES = ("/login", "/user", "/feedback/report", "/feedback")


class RouteMeter:
    """Counts requests by the beginning of their path."""

    def begin(self, scope: Scope) -> str | None:
        """Return the route to count a request under."""
        path = scope["path"]
        return next((route for route in ROUTES if path.startswith(route)), None)

    def end(self, label: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        metrics.REQUESTS.labels(label, str(int(status))).inc()
        metrics.REQUEST_SECONDS.labels(label).observe(seconds)


def run(settings: FeedbackSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises SettingsError where the port is taken."""
    uvloop.run(_run(settings))


async def _run(settings: FeedbackSettings) -> None:
    with listen(settings.feedback_host, settings.feedback_port, "FEEDBACK_PORT") as listener:
        parts = Parts.make(settings)
        envelope = RequestEnvelope(app.build_router(parts), RouteMeter(), settings)
        server = Server(envelope, settings)
        stopping = stop_signal()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        logger.info("listening", extra={"http": listener.getsockname()[1], "mode": settings.mode})
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
        logger.info("stopping: finishing what is in flight")
        stop.cancel()
        server.should_exit = True
        await serving
        await parts.close()
        logger.info("stopped")
