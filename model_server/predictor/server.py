"""The predictor's life: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import sys

import uvloop

from model_server.config import PredictorSettings
from model_server.http.body import Buffer
from model_server.http.envelope import RequestEnvelope
from model_server.http.server import Server, listen, stop_signal
from model_server.predictor import rest, sdk
from model_server.predictor.grpc_server import build_grpc_server
from model_server.predictor.meter import InferenceMeter
from model_server.predictor.service import PredictorService
from model_server.predictor.workers import Workers

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.001
"""How long the event loop may hold the interpreter while a worker waits for it. At Python's own 5 ms cores idle:
requests/s at 32 connections rose by 5 %."""


def run(settings: PredictorSettings, workers: Workers) -> None:
    """Serve until SIGTERM or SIGINT; raises SettingsError where a port is taken."""
    sys.setswitchinterval(SWITCH_SECONDS)
    uvloop.run(_serve(settings, workers))


async def _serve(settings: PredictorSettings, workers: Workers) -> None:
    service = PredictorService(settings, workers)
    data_plane = sdk.build_data_plane(service, settings.max_instances)
    router = rest.build_router(service, settings, sdk.build_application(data_plane))
    buffer = Buffer(settings.max_buffered_bytes)
    envelope = RequestEnvelope(router, InferenceMeter(), settings, buffer)
    server = Server(envelope, settings)
    grpc_server = build_grpc_server(data_plane, service, settings, buffer) if settings.predictor_grpc_port else None
    with listen(settings.predictor_host, settings.predictor_port, "PREDICTOR_PORT") as listener:
        if grpc_server:
            await grpc_server.start()
        loading = asyncio.create_task(service.load())
        stopping = stop_signal()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        logger.info("listening", extra={"http": settings.predictor_port, "grpc": settings.predictor_grpc_port})
        await asyncio.wait({serving, asyncio.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED)
        logger.info("stopping: finishing the requests in flight")
        server.should_exit = True
        if grpc_server:
            await grpc_server.stop(settings.shutdown_grace_seconds)
        await serving
        await loading
        await service.close()
        logger.info("stopped")
