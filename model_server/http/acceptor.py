"""Accepting connections one by one, so that an idle one can make room before the next is taken."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable
from functools import partial

logger = logging.getLogger(__name__)

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
Address = tuple[str, int]

PAUSE_SECONDS = 0.05
WARNING_SECONDS = 10


class Acceptor:
    """Serves one listening socket. uvloop's own server takes all that wait at once, until no descriptor is left."""

    def __init__(
        self, listener: socket.socket, make: Callable[[Address], asyncio.Protocol], make_room: Callable[[], bool]
    ) -> None:
        """``make`` is given the caller's address and port; ``make_room`` closes an idle connection, if there is one."""
        self._listener = listener
        self._make = make
        self._make_room = make_room
        self._warned_at = float("-inf")
        listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept_all())

    def close(self) -> None:
        """Accept no more."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Return once no more are accepted."""
        await asyncio.wait([self._accepting])

    async def _accept_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.connect_accepted_socket(partial(self._make, address[:2]), connection)
            except OSError as error:
                # Else it was the caller's: gone before being accepted (accept(2)).
                if error.errno in EXHAUSTED and not self._make_room():
                    self._warn(error)
                    await asyncio.sleep(PAUSE_SECONDS)
                else:
                    await asyncio.sleep(0)

    def _warn(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._warned_at > WARNING_SECONDS:
            self._warned_at = now
            logger.warning("connections cannot be accepted: %s", error.strerror)
