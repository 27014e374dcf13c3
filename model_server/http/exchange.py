"""One request and its reply on a connection."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Exchange(RequestResponseCycle):
    """Uvicorn's, but for closing the connection, which is left to the connection."""

    is_last = False
    """Whether the connection ends with this reply."""
    task: asyncio.Task[None]
    sent = 0
    """Bytes of the reply's content that were given to the connection."""

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """Send a part of the reply; return once the reader has taken most of it, so that who counts it can."""
        if message["type"] == "http.response.start":
            if self.more_body:
                self.keep_alive = False
            self.is_last = not self.keep_alive
        elif not message.get("more_body"):
            self.is_last = self.is_last or not self.keep_alive
            self.keep_alive = True
        self.sent += len(message.get("body", b""))
        await super().send(message)  # type: ignore[arg-type]
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    async def answer(self, app: ASGIApp) -> None:
        """Run the application; it is cancelled once the caller has gone."""

        async def until_gone(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.disconnected:
                    raise

        await self.run_asgi(until_gone)  # type: ignore[arg-type]

    def give_up(self) -> None:
        """Let the application find its caller gone."""
        self.disconnected = True
        self.message_event.set()
