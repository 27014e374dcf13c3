"""The health and statistics family: that the service runs, and how often each of its routes was called."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.errors import InvalidInput, NotFound, shown
from model_server.http.replies import json_response
from model_server.queue_proxy.apis import NAMES
from model_server.queue_proxy.parts import Parts
from model_server.store.metering import UNITS

RUNNING = {"message": "Application is up and running"}


class StatisticsFamily:
    """One method a route."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/v1/health", self.health, methods=["GET"]),
            Route("/api/v1/statistics", self.statistics, methods=["GET"]),
        ]

    async def health(self, _request: Request) -> Response:
        """Say that the process is alive."""
        return json_response(RUNNING)

    async def statistics(self, request: Request) -> Response:
        """Return the calls of a route in the current window, of a minute where none is named."""
        await self._parts.authentication.admit(request.scope)
        given, window = request.query_params.get("api", ""), request.query_params.get("window", "minute")
        if window not in UNITS:
            raise InvalidInput(f"window is one of {', '.join(UNITS)}, not {shown(window)}.")
        calls = await self._parts.metering.calls_now(_name(given), window)
        return json_response({"api": given, f"number of calls in current {window}": calls})


def _name(given: str) -> str:
    """Return the route that a name stands for: its path, or the last part of one path alone."""
    path = f"/{given.strip('/')}"
    if path in NAMES:
        return path
    ends = [name for name in NAMES if name.endswith(path)]
    if len(ends) != 1 or path == "/":
        raise NotFound(f"There is no api {shown(given)}; there are {', '.join(name[1:] for name in sorted(NAMES))}.")
    return ends[0]
