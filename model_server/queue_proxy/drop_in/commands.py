"""The command family: a form with a command, metadata and an image, encoded or as raw pixels."""

from __future__ import annotations

import asyncio

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server import telemetry
from model_server.documents.document import LooseDocument, read
from model_server.errors import InvalidInput
from model_server.http import body, json_body
from model_server.http.replies import json_response
from model_server.queue_proxy import intake
from model_server.queue_proxy.admission import Admission
from model_server.queue_proxy.drop_in import raw_pixels
from model_server.queue_proxy.drop_in.raw_pixels import ITEM_CODES, PixelFormat
from model_server.queue_proxy.intake import Work
from model_server.queue_proxy.service import PredictionService

COMMAND = "predict"
FIELD = "image"


class Metadata(LooseDocument):
    """The form's JSON; ``shape`` and ``dtype`` are of raw pixels."""

    request_id: str | int | None = Field(None, description="1 to 128 printable ASCII characters without spaces")
    shape: str | None = Field(None, description='height x width of the pixels, such as "256x256" or "256x256x3"')
    dtype: str | None = Field(None, description=f"one of {', '.join(ITEM_CODES)}")


class CommandFamily:
    """One method a route."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service

    def routes(self, admission: Admission) -> list[Route]:
        """Return the routes."""
        return [Route(f"/inference{end}", admission.handler(self.run), methods=["POST"]) for end in ("", "/")]

    async def run(self, request: Request) -> Response:
        """Return ``{"class", "confidence_level", "prediction", "request_id"}``; the third ranks classes."""
        work, request_id = await self._read(request)
        # From here on it is the caller's own name of the request: at the predictor, and in the log.
        token = telemetry.request_id.set(request_id)
        try:
            best = await self._service.classify(request.scope, await self._service.model(), work)
        finally:
            telemetry.request_id.reset(token)
        return json_response(
            {
                "class": best.label,
                "confidence_level": best.score,
                "prediction": [one.model_dump(exclude={"top"}, exclude_none=True) for one in best.ranked],
                "request_id": request_id,
            }
        )

    async def _read(self, request: Request) -> tuple[Work, str]:
        settings = self._service.settings
        data = await body.read(request.scope, request.receive, settings)
        if body.media_type(request.scope) != intake.MULTIPART:
            raise InvalidInput(f"Send command, metadata and image as {intake.MULTIPART}.")
        fields, content = await intake.uploaded(request.scope, data, FIELD)
        if fields.get("command") != COMMAND:
            raise InvalidInput(f'The form needs "command"; the one there is, is {COMMAND!r}.')
        if "metadata" not in fields:
            raise InvalidInput('The form needs "metadata": a JSON object with request_id, shape and dtype.')
        metadata = read(Metadata, json_body.parse(fields["metadata"].encode(), settings.max_json_values))
        request_id = _request_id(metadata)
        return await self._work(content, metadata), request_id

    async def _work(self, content: bytes, metadata: Metadata) -> Work:
        settings = self._service.settings
        if metadata.shape is None and metadata.dtype is None:
            return intake.image_work(content, f"The field {FIELD!r}", settings)
        form = PixelFormat.parse(metadata.shape or "", metadata.dtype or "")
        if intake.is_encoded(content):
            return intake.image_work(content, f"The field {FIELD!r}", settings)
        # Converting a million floats takes a third of a second: meanwhile others are answered.
        image = await asyncio.to_thread(raw_pixels.to_tiff, content, form, settings.max_json_values)
        return intake.image_work(image, f"The field {FIELD!r}", settings)


def _request_id(metadata: Metadata) -> str:
    if metadata.request_id is None:
        return telemetry.request_id.get()
    text = str(metadata.request_id)
    if telemetry.accept_request_id(text) != text:
        raise InvalidInput('"request_id" is 1 to 128 printable ASCII characters without spaces.')
    return text
