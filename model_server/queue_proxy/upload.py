"""A request's body on its way through: within its limits, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from model_server.config import QueueProxySettings
from model_server.errors import PayloadTooLarge, RequestTimeout


class Upload:
    """A body as it arrives; ``error`` is why it ended early, which the HTTP client would not tell."""

    def __init__(self, receive: Receive, settings: QueueProxySettings) -> None:
        self._receive = receive
        self._limit = settings.max_body_bytes
        self._arrival = Arrival(settings)
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, more = 0, True
        while more:
            message = await self._next()
            part: bytes = message.get("body", b"")
            size += len(part)
            if message["type"] == "http.disconnect":
                self.error = ClientDisconnect()
            elif size > self._limit:
                self.error = PayloadTooLarge(f"The body has more than the {self._limit:,} bytes that are allowed.")
            if self.error:
                raise self.error
            if part:
                yield part
            more = message.get("more_body", False)

    async def _next(self) -> Message:
        try:
            async with self._arrival.awaited():
                return await self._receive()
        except RequestTimeout as error:
            self.error = error
            raise


class Arrival:
    """How long a body may keep us waiting, all its parts together; not counted is how long we take for them."""

    def __init__(self, settings: QueueProxySettings) -> None:
        self._most_seconds = settings.body_timeout_seconds
        self._left_seconds = settings.body_timeout_seconds

    @asynccontextmanager
    async def awaited(self) -> AsyncIterator[None]:
        """Wait for a part within; raises RequestTimeout."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self._left_seconds):
                yield
        except TimeoutError:
            raise RequestTimeout(f"The body did not arrive within {self._most_seconds:g} s.") from None
        self._left_seconds -= loop.time() - begun
