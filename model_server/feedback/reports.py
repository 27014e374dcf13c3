"""Routes for what feedback adds up to: the report, the export, and labels that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from model_server.errors import Forbidden, InvalidInput, Overloaded, Unprocessable, shown
from model_server.feedback import authors, export, label_studio, query, report
from model_server.feedback.entries import resource
from model_server.feedback.label_import import import_annotations
from model_server.feedback.parts import Parts
from model_server.http import body, json_body
from model_server.http.replies import json_response
from model_server.http.routing import Application
from model_server.store import report as store
from model_server.store.labelled import LabelledPictures, labelled_pictures
from model_server.store.report import Viewer

MISTAKES = 12
EXPORTS_AT_ONCE = 2
"""Each holds a connection and a snapshot of the database until its reader has all of it."""
EXPORT_SECONDS = 3600
STATEMENT_SECONDS = 120
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files that lie in its own storage (https://labelstud.io/guide/storage)."""


class ReportRoutes:
    """One method a route."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._exports = asyncio.Semaphore(EXPORTS_AT_ONCE)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/feedback/report", self.report, methods=["GET"]),
            Route("/feedback/export", Application(self.export), methods=["GET"]),
            Route("/feedback/import", self.take_back, methods=["POST"]),
        ]

    async def report(self, request: Request) -> Response:
        """Return the report; in mode ``accounts`` it is for administrators, for it is about everybody's pictures."""
        caller = await self._parts.authentication.admit(request.scope)
        if not (caller.is_admin or caller.sees_unowned):
            raise Forbidden("The report is for administrators.")
        scope = query.scope(request.query_params)
        viewer = Viewer(authors.author_of(request, caller).key, caller.is_admin, caller.sees_unowned)
        figures = await store.figures(self._parts.database, scope, viewer, MISTAKES)
        return json_response(report.document(figures, scope, resource))

    async def export(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the pictures that users labelled, as a tar, or all they judged as tasks for Label Studio."""
        await self._parts.authentication.admin(scope)
        given = Request(scope).query_params
        chosen, kind = query.scope(given), given.get("format", "tar")
        if kind not in {"tar", "label-studio"}:
            raise InvalidInput(f"format is tar or label-studio, not {shown(kind)}.")
        if self._exports.locked():
            raise Overloaded("Other exports are under way. Try again later.")
        async with (
            self._exports,
            asyncio.timeout(EXPORT_SECONDS),
            labelled_pictures(
                self._parts.database, self._parts.images, chosen, STATEMENT_SECONDS, labelled=kind == "tar"
            ) as pictures,
        ):
            respond = self._tar if kind == "tar" else self._tasks
            await respond(pictures, given.get("images", LOCAL_FILES), scope, receive, send)

    async def _tar(self, pictures: LabelledPictures, _root: str, scope: Scope, receive: Receive, send: Send) -> None:
        sizes = await export.measure(pictures)
        headers = {"Content-Length": str(sizes.tar), "Content-Disposition": 'attachment; filename="feedback.tar"'}
        await _stream(export.tar(pictures, sizes), "application/x-tar", headers, (scope, receive, send))

    async def _tasks(self, pictures: LabelledPictures, root: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Content-Disposition": 'attachment; filename="label-studio.json"'}
        await _stream(export.tasks(pictures, root), "application/json", headers, (scope, receive, send))

    async def take_back(self, request: Request) -> Response:
        """Take Label Studio's annotations as feedback, one judge more for each annotator."""
        await self._parts.authentication.admin(request.scope)
        content = await body.read(request.scope, request.receive, self._parts.settings)
        document = json_body.parse_any(content, self._parts.settings.max_json_values, Unprocessable)
        found = list(label_studio.read_annotations(document))
        return json_response(await import_annotations(self._parts.database, found))


async def _stream(
    content: AsyncGenerator[bytes], media_type: str, headers: dict[str, str], call: tuple[Scope, Receive, Send]
) -> None:
    headers = {**headers, "Cache-Control": "no-store"}
    async with aclosing(content):
        await StreamingResponse(content, headers=headers, media_type=media_type)(*call)
