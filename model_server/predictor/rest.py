"""The inference and model routes, in front of the SDK's application, which answers every other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from model_server.classifier import Picture, rank
from model_server.config import PredictorSettings
from model_server.documents.v1_request import DEFAULT_TOP_K
from model_server.errors import Forbidden, NotSupported, UnsupportedMediaType, shown
from model_server.http import body, json_body
from model_server.http.routing import ErrorsRaisedRouter
from model_server.predictor import tensors, v1, v2
from model_server.predictor.service import PredictorService
from model_server.schema import BINARY_HEADER, INSTANCE_COUNT_HEADER, MODEL_VERSION_HEADER, V1Reply

LIVE = orjson.dumps({"live": True})


def build_router(service: PredictorService, settings: PredictorSettings, sdk: ASGIApp) -> ErrorsRaisedRouter:
    """Return the routes that the SDK has wrong, slow or not at all; ``sdk`` answers the others."""
    routes = Routes(service, settings)
    model = "/v2/models/{model}"
    version = f"{model}/versions/{{version}}"
    return ErrorsRaisedRouter(
        [
            Route("/v1/models/{model}:predict", Endpoint(routes.predict), methods=["POST"]),
            *(Route(f"{path}/infer", Endpoint(routes.infer), methods=["POST"]) for path in (model, version)),
            Route("/v2/health/live", Endpoint(routes.live), methods=["GET"]),
            Route("/v1/models/{model}:explain", routes.explain, methods=["POST"]),
            Route("/v2/health/ready", routes.server_ready, methods=["GET"]),
            *(Route(f"{path}/ready", routes.model_ready, methods=["GET"]) for path in (model, version)),
            *(Route(path, routes.metadata, methods=["GET"]) for path in (model, version)),
            Route("/v1/models/{model}", routes.v1_ready, methods=["GET"]),
            Route("/v2/repository/{rest:path}", routes.repository, methods=["GET", "POST"]),
        ],
        default=sdk,
        redirect_slashes=False,
    )


class Endpoint:
    """A handler as an ASGI application.

    Starlette would wrap a plain function in a layer for errors; the envelope around the router answers those.
    """

    def __init__(self, handle: Callable[[Request], Awaitable[Response]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self._handle(Request(scope, receive, send))
        await response(scope, receive, send)


class Routes:
    """One method a route."""

    def __init__(self, service: PredictorService, settings: PredictorSettings) -> None:
        self._service = service
        self._settings = settings

    async def predict(self, request: Request) -> Response:
        """V1: a JSON body of instances, or one image as it is."""
        model = self._service.require(request.path_params["model"])
        media_type = body.media_type(request.scope)
        is_image = media_type.startswith("image/")
        if not is_image and media_type not in body.JSON_TYPES:
            raise UnsupportedMediaType(
                f"The content type {shown(media_type)} is not read; send application/json, or an image as image/*."
            )
        data = await body.read(request.scope, request.receive, self._settings)
        pictures: list[Picture] = [data]
        top_k = DEFAULT_TOP_K
        if not is_image:
            document = json_body.parse(data, self._settings.max_json_values)
            pictures, top_k = v1.parse(document, self._settings.max_instances)
        scores = await self._service.classify(pictures, "" if is_image else "instances")
        reply: V1Reply = {"predictions": [rank(model.labels, row, top_k) for row in scores]}
        return self._reply(reply, {INSTANCE_COUNT_HEADER: str(len(pictures))})

    async def infer(self, request: Request) -> Response:
        """V2: JSON, or JSON followed by binary tensors."""
        path = request.path_params
        model = self._service.require(path["model"], path.get("version"))
        media_type = body.media_type(request.scope)
        if media_type not in body.JSON_TYPES:
            raise UnsupportedMediaType(f"The content type {shown(media_type)} is not read; send application/json.")
        data = await body.read(request.scope, request.receive, self._settings)
        json_length = body.header(request.scope, BINARY_HEADER.lower().encode())
        inference = v2.parse(data, json_length, self._settings.max_json_values)
        tensors.check_outputs(inference.outputs)
        pictures = tensors.pictures(inference.inputs, self._settings.max_instances)
        scores = await self._service.classify(pictures, tensors.INPUT)
        outputs = tensors.outputs(model.labels, scores, inference.outputs)
        content, length = v2.render(inference, self._service.name, self._service.version, outputs)
        headers = {MODEL_VERSION_HEADER: self._service.version, INSTANCE_COUNT_HEADER: str(len(pictures))}
        if length is None:
            return Response(content, media_type="application/json", headers=headers)
        headers[BINARY_HEADER] = str(length)
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def live(self, _request: Request) -> Response:
        """V2 liveness: the event loop turns."""
        return Response(LIVE, media_type="application/json")

    async def server_ready(self, _request: Request) -> Response:
        """V2 readiness of the server: that of its one model."""
        self._service.require_ready()
        return self._reply({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """V2 readiness of the model: 200 once the golden check is passed, 503 with the reason before."""
        path = request.path_params
        self._service.require(path["model"], path.get("version"))
        self._service.require_ready()
        return self._reply({"name": self._service.name, "ready": True})

    async def v1_ready(self, request: Request) -> Response:
        """V1 readiness of the model."""
        self._service.require(request.path_params["model"])
        self._service.require_ready()
        return self._reply({"name": self._service.name, "ready": True})

    async def metadata(self, request: Request) -> Response:
        """V2 metadata: versions, platform, tensors; ``scores`` has the labels as a parameter."""
        path = request.path_params
        model = self._service.require(path["model"], path.get("version"))
        *others, scores = tensors.describe_outputs(len(model.labels))
        return self._reply(
            {
                "name": self._service.name,
                "versions": [self._service.version],
                "platform": model.runtime,
                "inputs": tensors.describe_inputs(),
                "outputs": [*others, {**scores, "parameters": {"labels": list(model.labels)}}],
            }
        )

    async def explain(self, _request: Request) -> Response:
        """Refuse before the body is read, which the SDK would do without a limit."""
        raise NotSupported("This server classifies; it has no explainer.")

    async def repository(self, _request: Request) -> Response:
        """Refuse to load and unload: anybody who reaches the port could take the model away."""
        raise Forbidden(
            "Loading and unloading models by request is turned off; a pod serves the model it started with."
        )

    def _reply(self, content: Any, more: dict[str, str] | None = None) -> Response:
        headers = {MODEL_VERSION_HEADER: self._service.version, **(more or {})}
        return Response(orjson.dumps(content), media_type="application/json", headers=headers)
