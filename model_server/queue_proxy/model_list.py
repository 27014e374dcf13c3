"""Which models there are, also while the predictor sleeps: whoever knows no name could queue nothing that wakes it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from model_server.errors import BadGateway, Unavailable
from model_server.http.json_body import parse_reply
from model_server.http.replies import json_response
from model_server.queue_proxy.split import Split


async def served_models(predictor: Split) -> list[str]:
    """Return the names that the predictor lists; raises as ``Split.send`` does, Unavailable while it starts."""
    reply = await predictor.send("GET", "/v1/models", {}, None)
    if reply.status != 200:
        raise Unavailable("The predictor lists no models yet.")
    names = (parse_reply(reply.body) or {}).get("models")
    if not isinstance(names, list):
        raise BadGateway("The predictor returned an invalid model list.")
    return [name for name in names if isinstance(name, str)]


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
