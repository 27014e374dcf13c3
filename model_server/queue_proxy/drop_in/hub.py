"""The hub family: image classification as the clients of Hugging Face's Inference API ask for it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.documents.document import Document, LooseDocument, read
from model_server.documents.v1_request import TOP_K, TopK
from model_server.http import body, json_body
from model_server.http.base64_text import decode_base64
from model_server.http.replies import json_response
from model_server.queue_proxy.admission import Admission
from model_server.queue_proxy.intake import Work, image_work, is_encoded
from model_server.queue_proxy.service import PredictionService


class HubParameters(Document):
    """What a caller may ask for beside the image; scores are probabilities already."""

    top_k: TopK | None = Field(None, description=TOP_K)
    function_to_apply: Literal["softmax"] | None = Field(None, description="'softmax': scores are probabilities")


class HubRequest(LooseDocument):
    """The body, where it is not the image itself."""

    inputs: str = Field(description="an encoded image in base64")
    parameters: HubParameters | None = Field(None, description="an object")

    @property
    def beside_the_image(self) -> dict[str, Any]:
        """What our predictor has a name for."""
        top_k = self.parameters.top_k if self.parameters else None
        return {} if top_k is None else {"top_k": top_k}


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
        best = await self._service.classify(request.scope, request.path_params["model"], work)
        return json_response([{"label": one.label, "score": one.score} for one in best.ranked])

    def _work(self, media_type: str, data: bytes) -> Work:
        settings = self._service.settings
        # Clients that are given bytes alone say no content type, or any.
        if is_encoded(data) or media_type not in body.JSON_TYPES:
            return image_work(data, "The body", settings)
        request = read(HubRequest, json_body.parse(data, settings.max_json_values))
        return image_work(decode_base64(request.inputs, "inputs"), "inputs", settings, request.beside_the_image)
