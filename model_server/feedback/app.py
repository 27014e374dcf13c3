"""The routes of the feedback service."""

from __future__ import annotations

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from model_server.feedback import openapi
from model_server.feedback.accounts import AccountRoutes
from model_server.feedback.attempts import Attempts
from model_server.feedback.entries import EntryRoutes
from model_server.feedback.login import LoginRoutes
from model_server.feedback.parts import Parts
from model_server.feedback.reports import ReportRoutes
from model_server.http.replies import json_response
from model_server.http.routing import ErrorsRaisedRouter
from model_server.store import signing_keys


def build_router(parts: Parts) -> ASGIApp:
    """Return every route."""
    attempts = Attempts(parts.settings)
    accounts = [*LoginRoutes(parts, attempts).routes(), *AccountRoutes(parts, attempts).routes()]
    # In this order: what has a name comes before what is called by its id.
    said = [*ReportRoutes(parts).routes(), *EntryRoutes(parts).routes()]
    documents = openapi.API.routes("/feedback")
    return ErrorsRaisedRouter([*operations(parts), *accounts, *documents, *said], redirect_slashes=False)


def operations(parts: Parts) -> list[Route]:
    """Return the routes for those who run the service."""

    async def healthz(_request: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        await parts.database.require_writable()
        await signing_keys.get_or_create(parts.database)
        return json_response({"status": "ready"})

    async def metrics(_request: Request) -> Response:
        return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]
