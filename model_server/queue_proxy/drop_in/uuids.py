"""The UUID family: send an image as base64, get an identifier, ask for the prediction under it."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.documents import v1_reply
from model_server.documents.document import LooseDocument, read
from model_server.errors import BadGateway
from model_server.http import body, json_body
from model_server.http.base64_text import decode_base64
from model_server.http.replies import json_response
from model_server.queue_proxy.admission import Admission
from model_server.queue_proxy.intake import image_work
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.resources import is_finished
from model_server.queue_proxy.service import PredictionService
from model_server.store.models import CANCELLED, Record

FAILURES = {"rejected": HTTPStatus.BAD_REQUEST, "deadline_exceeded": HTTPStatus.GATEWAY_TIMEOUT}
"""Status of a failed prediction by the code of its error."""


class Sent(LooseDocument):
    """What is sent."""

    name: str | None = Field(None, description="a text")
    data: str = Field(description="an encoded image in base64")


class UuidFamily:
    """One method a route."""

    def __init__(self, parts: Parts, service: PredictionService) -> None:
        self._authentication = parts.authentication
        self._resources = parts.resources
        self._service = service

    def routes(self, admission: Admission) -> list[Route]:
        """Return the routes, each with and without a slash at its end."""
        submit = admission.handler(self.submit)
        return [
            *(Route(f"/inference/image{end}", submit, methods=["POST"]) for end in ("", "/")),
            *(Route(f"/predictions/{{id}}{end}", self.read, methods=["GET"]) for end in ("", "/")),
        ]

    async def submit(self, request: Request) -> Response:
        """Queue ``{"name", "data": base64}``, whatever the content type says, and return ``{"uuid"}``."""
        settings = self._service.settings
        data = await body.read(request.scope, request.receive, settings)
        sent = read(Sent, json_body.parse(data, settings.max_json_values))
        work = image_work(decode_base64(sent.data, "data"), "data", settings)
        row = await self._service.record(request.scope, await self._service.model(), work)
        return json_response({"uuid": str(row.id)})

    async def read(self, request: Request) -> Response:
        """Return ``{"prediction": label}``; 202 and ``{"status"}`` before it is there."""
        caller = await self._authentication.admit(request.scope)
        row = await self._resources.row(request.path_params["id"], caller)
        if not is_finished(row):
            retry = {"Retry-After": str(self._service.settings.retry_after_seconds)}
            return json_response({"status": row.status}, HTTPStatus.ACCEPTED, retry)
        if row.predictions is None:
            return _without_result(row)
        predictions = v1_reply.predictions(row.predictions)
        if not predictions:
            raise BadGateway("The predictor's answer is of another shape.")
        return json_response({"prediction": predictions[0].label})


def _without_result(row: Record) -> Response:
    if row.status == CANCELLED:
        return json_response({"status": row.status, "error": "The prediction was cancelled."}, HTTPStatus.GONE)
    status = FAILURES.get(row.error["code"], HTTPStatus.BAD_GATEWAY)
    return json_response({"status": row.status, "error": row.error["message"]}, status)
