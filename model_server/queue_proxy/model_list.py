"""``GET /v1/models`` while the predictor sleeps: whoever knows no name could queue nothing that wakes it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from model_server.errors import Unavailable
from model_server.http.replies import json_response


class ModelList:
    """Passes the question on, and answers it where nobody else does."""

    def __init__(self, through: ASGIApp, model_name: str | None) -> None:
        self._through = through
        self._model_name = model_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._through(scope, receive, send)
        except Unavailable:
            if self._model_name is None:
                raise
            await json_response({"models": [self._model_name]})(scope, receive, send)
