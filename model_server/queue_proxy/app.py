"""The routes, and which of them a request of the KServe protocols takes: through, or into the queue."""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server.config import QueueProxySettings
from model_server.errors import DatabaseError, NotReady
from model_server.http import body
from model_server.http.replies import json_response
from model_server.http.routing import ErrorsRaisedRouter
from model_server.queue_proxy import drop_in, infer_request, intake, openapi, page, prefer
from model_server.queue_proxy.admission import caller_of
from model_server.queue_proxy.drop_in.tensorflow_serving import ColumnFormat
from model_server.queue_proxy.model_list import ModelList
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.passthrough import PassThrough
from model_server.queue_proxy.predictions import PredictionRoutes
from model_server.queue_proxy.service import PredictionService
from model_server.queue_proxy.sidecar import SIDECAR_PATHS
from model_server.queue_proxy.split import take_place
from model_server.queue_proxy.submit import ReadWork, SubmitRoute
from model_server.queue_proxy.usage import UsageRoutes

logger = logging.getLogger(__name__)

STATE_SECONDS = 2
"""Metrics go without the state of the queue where it takes longer: Prometheus waits 10 seconds by default."""


class Door:
    """Predictions: queued where the caller prefers that, else passed through."""

    def __init__(self, parts: Parts, through: ASGIApp, submit: SubmitRoute, read_work: ReadWork) -> None:
        self._parts = parts
        self._through = through
        self._submit = submit
        self._read_work = read_work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        wishes = prefer.preferences(scope, self._parts.settings.wait_most_seconds)
        if not wishes.respond_async:
            await self._through(scope, receive, send)
            return
        response = await self._submit.submit(Request(scope, receive), wishes, self._read_work, caller_of(scope))
        await response(scope, receive, send)


class Forms:
    """Passes an uploaded form on as if the image in it had been sent by itself, which the predictor reads."""

    def __init__(self, settings: QueueProxySettings, through: PassThrough) -> None:
        self._settings = settings
        self._through = through

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if body.media_type(scope) == intake.MULTIPART:
            scope, receive = await self._unwrap(scope, receive)
        await self._through(scope, receive, send)

    async def _unwrap(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        work = await intake.read_work(scope, await body.read(scope, receive, self._settings), self._settings)
        image = work.image or b""
        given = {b"content-type": work.media_type.encode(), b"content-length": str(len(image)).encode()}
        headers = [(name, given.get(name, value)) for name, value in scope["headers"]]

        async def receive_image() -> Message:
            return {"type": "http.request", "body": image}

        return {**scope, "headers": headers}, receive_image


class Metadata:
    """Metadata and health for everybody; whatever else the protocols have is a prediction, for whom it is meant."""

    def __init__(self, parts: Parts, through: PassThrough) -> None:
        self._settings = parts.settings
        self._admitted = parts.admission.guard(through)
        self._through = through

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] in {"GET", "HEAD"}:
            take_place(scope, self._settings, None)
            await self._through(scope, receive, send)
        else:
            await self._admitted(scope, receive, send)


def build_router(parts: Parts) -> ASGIApp:
    """Return every route of the queue-proxy."""
    predictions = PredictionRoutes(parts)
    submit = SubmitRoute(parts, predictions)
    through = PassThrough(parts.settings, parts.upstream, parts.cache)
    service = PredictionService(parts, through, submit)
    metadata = Metadata(parts, through)
    predict = ColumnFormat(parts.settings, Door(parts, Forms(parts.settings, through), submit, intake.read_work))
    infer = Door(parts, through, submit, infer_request.read_work)
    admit, one = parts.admission.guard, "/v1/predictions/{id}"
    return ErrorsRaisedRouter(
        [
            *operations(parts),
            Route("/v1/predictions", predictions.list, methods=["GET"]),
            Route(one, predictions.read, methods=["GET"]),
            Route(one, predictions.cancel, methods=["DELETE"]),
            Route(f"{one}/image", predictions.image, methods=["GET"]),
            Route(f"{one}/events", predictions.events, methods=["GET"]),
            Route("/v1/queue", predictions.queue, methods=["GET"]),
            *openapi.API.routes(),
            Route("/v1/models/{model}:predict", admit(predict), methods=["POST"]),
            Route("/v2/models/{model}/infer", admit(infer), methods=["POST"]),
            Route("/v1/models", ModelList(metadata, parts.settings.model_name), methods=["GET"]),
            Route("/v1/models{rest:path}", metadata),
            Route("/v2{rest:path}", metadata),
            *(Route(path, parts.sidecar) for path in SIDECAR_PATHS),
            *UsageRoutes(parts).routes(),
            *drop_in.routes(parts, service),
            *page.routes(),
        ],
        redirect_slashes=False,
    )


def build_operations(parts: Parts) -> ASGIApp:
    """Return the routes of a process that only dispatches."""
    return ErrorsRaisedRouter(operations(parts), redirect_slashes=False)


def operations(parts: Parts) -> list[Route]:
    """Return the routes for those who run the service."""

    async def healthz(_request: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if parts.watch.closing:
            raise NotReady("The server is shutting down.")
        await parts.database.require_writable()
        await parts.resources.state()
        if stuck := parts.background.stuck:
            raise NotReady(f"Background work fails: {', '.join(stuck)}. The log says why.")
        return json_response({"status": "ready"})

    async def metrics(_request: Request) -> Response:
        try:
            async with asyncio.timeout(STATE_SECONDS):
                await parts.resources.state()
        except (DatabaseError, TimeoutError):
            logger.warning("metrics without the queue's state: the database does not tell it")
        return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]
