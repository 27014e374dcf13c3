"""What Starlette's routes lack."""

from __future__ import annotations

from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send


class ErrorsRaisedRouter(Router):
    """Starlette's router, with errors raised for the envelope to answer in our shape."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self  # without it, Starlette answers an unknown path or method itself, in plain text
        await super().__call__(scope, receive, send)


class Application:
    """An ASGI application that a router takes for one: a function or method it takes for a handler of requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)
