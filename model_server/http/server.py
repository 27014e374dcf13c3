"""Listening and serving with uvicorn, its signals in our hands."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from model_server.config import ENV_PREFIX
from model_server.errors import SettingsError
from model_server.http.connection import Connection
from model_server.http.connections import Connections

BACKLOG = 2048
TICKS_A_SECOND = 10
"""Of uvicorn's main loop."""


class Server(uvicorn.Server):
    """Uvicorn without its own logs, headers and signal handling; ``should_exit`` drains and ends it."""

    def __init__(self, app: ASGIApp, grace_seconds: int) -> None:
        self._connections = Connections()
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
                http=partial(Connection, self._connections),  # type: ignore[arg-type]
                timeout_graceful_shutdown=grace_seconds,
            )
        )

    async def on_tick(self, counter: int) -> bool:
        """Once a second, end the connections that have lasted too long; return whether to end the server."""
        if counter % TICKS_A_SECOND == 0:
            self._connections.sweep()
        return await super().on_tick(counter)

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
