"""The predictor's life: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from model_server import runtimes
from model_server.config import PredictorSettings
from model_server.errors import SettingsError
from model_server.predictor import rest, sdk
from model_server.predictor.grpc_server import build_grpc_server
from model_server.predictor.middleware import RequestEnvelope
from model_server.predictor.service import PredictorService

logger = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 65
"""Above the 60 s after which common load balancers drop an idle connection, so that they are the first to close it."""


class _Server(uvicorn.Server):
    """Uvicorn whose signals are handled by us, for HTTP and gRPC together."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(settings: PredictorSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises SettingsError where a port is taken."""
    uvloop.run(_serve(settings))


async def _serve(settings: PredictorSettings) -> None:
    service = PredictorService(settings, settings.threads or runtimes.cores())
    data_plane = sdk.build_data_plane(service, settings.max_instances)
    router = rest.build_router(service, settings, sdk.build_application(data_plane))
    config = uvicorn.Config(
        RequestEnvelope(router, settings.retry_after_seconds),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
        ws="none",
        http="httptools",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_grace_seconds,
    )
    server = _Server(config)
    grpc_server = build_grpc_server(data_plane, settings) if settings.predictor_grpc_port else None
    with _listen(settings) as listener:
        if grpc_server:
            await grpc_server.start()
        loading = asyncio.create_task(service.load())
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
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


def _listen(settings: PredictorSettings) -> socket.socket:
    host, port = settings.predictor_host, settings.predictor_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"MODEL_SERVER_PREDICTOR_PORT={port}: cannot listen on {host}: {error.strerror}. Set another port."
        ) from None
