"""Routes whose errors the envelope answers."""

from __future__ import annotations

from starlette.routing import Router
from starlette.types import Receive, Scope, Send


class ErrorsRaisedRouter(Router):
    """Starlette's router, with errors raised for the envelope to answer in our shape."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self  # without it, Starlette answers an unknown path or method itself, in plain text
        await super().__call__(scope, receive, send)
