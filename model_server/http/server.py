"""Listening and serving with uvicorn, its signals in our hands."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from model_server.config import ENV_PREFIX
from model_server.errors import SettingsError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 65
"""Above the 60 s after which common load balancers drop an idle connection, so that they are the first to close it."""


class Server(uvicorn.Server):
    """Uvicorn without its own logs, headers and signal handling; ``should_exit`` drains and ends it."""

    def __init__(self, app: ASGIApp, grace_seconds: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                date_header=False,
                proxy_headers=False,  # who the caller is, `client_address` finds out
                ws="none",
                http="httptools",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=grace_seconds,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to whoever runs the server."""
        yield


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def listen(host: str, port: int, setting: str) -> socket.socket:
    """Return a listening socket; raises SettingsError that names ``setting`` where the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"{ENV_PREFIX}{setting}={port}: cannot listen on {host}: {error.strerror}. Set another port."
        ) from None
