"""Listening and serving with uvicorn, its signals in our hands."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from model_server.config import ENV_PREFIX, ServiceSettings
from model_server.errors import SettingsError
from model_server.http.acceptor import Acceptor
from model_server.http.connection import Connection
from model_server.http.connections import Connections

BACKLOG = 2048
MOST_NOT_SENT = 128 * 1024
"""Of each reply the kernel keeps no more than this, and what is on its way: it would keep megabytes for a reader who
takes nothing. https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html, tcp_notsent_lowat"""
TICKS_A_SECOND = 10
"""Of uvicorn's main loop."""


class Server(uvicorn.Server):
    """Uvicorn without its own logs, headers and signal handling; ``should_exit`` drains and ends it."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._connections = Connections(settings)
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
                timeout_graceful_shutdown=settings.shutdown_grace_seconds,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        make = partial(Connection, self._connections, self.config, self.server_state, {})
        self.servers = [
            Acceptor(listener, make, self._connections.make_room)  # type: ignore[misc]
            for listener in sockets or ()
        ]
        self.started = True

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
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"{ENV_PREFIX}{setting}={port}: cannot listen on {host}: {error.strerror}. Set another port."
        ) from None
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_NOT_SENT)
    return listener
