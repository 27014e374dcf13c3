"""The hub family: image classification as the clients of Hugging Face's Inference API ask for it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.errors import InvalidInput
from model_server.http import body
from model_server.http.base64_text import decode_base64
from model_server.http.replies import json_response
from model_server.queue_proxy.admission import Admission
from model_server.queue_proxy.intake import Work, image_work, is_encoded
from model_server.queue_proxy.service import PredictionService

FUNCTION = "softmax"


class HubFamily:
    """One method a route."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service

    def routes(self, admission: Admission) -> list[Route]:
        """Return the routes."""
        return [Route("/models/{model}", admission.handler(self.classify), methods=["POST"])]

    async def classify(self, request: Request) -> Response:
        """Return ``[{"label", "score"}, …]``, best first, of an image as it is or of ``{"inputs", "parameters"}``."""
        data = await body.read(request.scope, request.receive, self._service.settings)
        work = self._work(body.media_type(request.scope), data)
        (best,) = await self._service.classify(request.scope, request.path_params["model"], work)
        ranked = best.get("top", [best])
        return json_response([{"label": one["label"], "score": one["score"]} for one in ranked])

    def _work(self, media_type: str, data: bytes) -> Work:
        settings = self._service.settings
        # Clients that are given bytes alone say no content type, or any.
        if is_encoded(data) or media_type not in body.JSON_TYPES:
            return image_work(data, "The body", settings)
        document = body.parse_json(data, settings.max_json_values)
        if "inputs" not in document:
            raise InvalidInput('The body is an image, or JSON with "inputs": an encoded image in base64.')
        image = decode_base64(document["inputs"], "inputs")
        return image_work(image, "inputs", settings, _parameters(document.get("parameters")))


def _parameters(given: Any) -> dict[str, Any]:
    parameters = {} if given is None else given
    if not isinstance(parameters, dict):
        raise InvalidInput('"parameters" is an object.')
    body.only_keys(parameters, {"top_k", "function_to_apply"}, "parameter")
    if parameters.get("function_to_apply") not in {None, FUNCTION}:
        raise InvalidInput(f'"function_to_apply" is {FUNCTION!r}: scores are probabilities.')
    top_k = parameters.get("top_k")
    return {} if top_k is None else {"top_k": top_k}
