"""The form family: an uploaded file, answered with its label and score."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.errors import InvalidInput
from model_server.http import body
from model_server.http.replies import json_response
from model_server.queue_proxy import intake
from model_server.queue_proxy.admission import Admission
from model_server.queue_proxy.intake import Work
from model_server.queue_proxy.service import PredictionService

FIELD = "file"
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
}


class FormFamily:
    """One method a route."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service

    def routes(self, admission: Admission) -> list[Route]:
        """Return the routes."""
        for_users = admission.handler(self.predict_named, users_only=True)
        return [
            Route("/predict", admission.handler(self.predict), methods=["POST"]),
            Route("/model/predict", for_users, methods=["POST"]),
        ]

    async def predict(self, request: Request) -> Response:
        """Return ``{"success", "prediction", "score"}`` of the form's image."""
        return await self._answer(request, named=False)

    async def predict_named(self, request: Request) -> Response:
        """Return the same with ``image_file_name``, the image's SHA-256 and suffix."""
        return await self._answer(request, named=True)

    async def _answer(self, request: Request, *, named: bool) -> Response:
        try:
            work = await self._image(request)
            best = await self._service.classify(request.scope, await self._service.model(), work)
        except InvalidInput as error:
            return json_response({"success": False, "error": str(error)}, error.status)
        answer = {"success": True, "prediction": best.label, "score": best.score}
        return json_response({**answer, "image_file_name": file_name(work)} if named else answer)

    async def _image(self, request: Request) -> Work:
        settings = self._service.settings
        data = await body.read(request.scope, request.receive, settings)
        if body.media_type(request.scope) != intake.MULTIPART:
            raise InvalidInput(f"Send the image as {intake.MULTIPART}, in the field {FIELD!r}.")
        _, content = await intake.uploaded(request.scope, data, FIELD)
        return intake.image_work(content, f"The field {FIELD!r}", settings)


def file_name(work: Work) -> str:
    """Return a name that only this image has, 64 hexadecimal digits and a suffix."""
    return hashlib.sha256(work.image or b"").hexdigest() + SUFFIXES[work.media_type]
