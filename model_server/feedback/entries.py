"""Routes of feedback itself: give it, list one's own, look at its picture, take it back."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server.errors import Forbidden, ModelServerError, NotFound, Unavailable, Unprocessable, UnsupportedMediaType
from model_server.feedback import authors, judgement, query
from model_server.feedback.judgement import Author, Judgement
from model_server.feedback.labels import LabelBook, LabelShelf
from model_server.feedback.parts import Parts
from model_server.http import body, json_body, paging
from model_server.http.replies import json_response, picture_response, timestamp
from model_server.store import feedback as store
from model_server.store.feedback import Entry
from model_server.store.gather import Gatherer
from model_server.store.images import PIECE_BYTES
from model_server.store.models import Record

Item = tuple[Judgement, Author]


class EntryRoutes:
    """One method a route."""

    def __init__(self, parts: Parts) -> None:
        self._database = parts.database
        self._authentication = parts.authentication
        self._images = parts.images
        self._settings = parts.settings
        self._shelf = LabelShelf(parts.database)
        self._writer: Gatherer[Item, Record | ModelServerError] = Gatherer(self._write)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            *(
                Route(path, method, methods=[verb])
                for path in ("/feedback", "/feedback/")
                for verb, method in (("POST", self.give), ("GET", self.own))
            ),
            Route("/feedback/labels", self.labels, methods=["GET"]),
            Route("/feedback/{id}", self.remove, methods=["DELETE"]),
            Route("/feedback/{id}/image", self.image, methods=["GET"]),
        ]

    async def give(self, request: Request) -> Response:
        """Keep what the caller says of a prediction; a second word on the same one replaces the first."""
        caller = await self._authentication.admit(request.scope)
        # A page elsewhere may send a form or a text here without being asked; JSON it may not.
        if body.media_type(request.scope) != "application/json":
            raise UnsupportedMediaType("Feedback is JSON; send it as application/json.")
        content = await body.read(request.scope, request.receive, self._settings, body.SMALL)
        said = judgement.parse(json_body.parse(content, self._settings.max_json_values, Unprocessable))
        result = await self._writer.put((said, authors.author_of(request, caller)))
        if isinstance(result, ModelServerError):
            raise result
        return json_response(resource(result), HTTPStatus.CREATED)

    async def own(self, request: Request) -> Response:
        """Return a page of the caller's own feedback, newest first; with ``all``, an administrator's, everybody's."""
        caller = await self._authentication.admit(request.scope)
        everybody = query.flag(request.query_params, "all")
        if everybody and not caller.is_admin:
            raise Forbidden("Only administrators see everybody's feedback.")
        author = authors.author_of(request, caller)
        wanted, before = paging.limit(request), paging.cursor(request)
        rows: list[Record] = []
        if everybody or author.key != authors.NOBODY:
            rows = await store.page(self._database, None if everybody else author.key, wanted + 1, before)
        after = paging.next_cursor(rows, wanted)
        response = json_response({"feedback": [resource(row) for row in rows[:wanted]], "next_cursor": after})
        authors.introduce(response, author)
        return response

    async def labels(self, request: Request) -> Response:
        """Return the classes of a model version, of the one last seen where none is named."""
        await self._authentication.admit(request.scope)
        model, version = (query.name(request.query_params, key) for key in ("model", "version"))
        row = (await self._shelf.book()).find(model, version) or (await self._shelf.book(fresh=True)).find(
            model, version
        )
        if row is None:
            raise NotFound("The classes of this model version are not known; they are learned as it predicts.")
        return json_response({"model": row.model, "version": row.model_version, "labels": row.labels})

    async def image(self, request: Request) -> Response:
        """Return the picture that an entry is about, as it was sent."""
        row, _ = await self._visible(request)
        found = await self._images.find(row.image_sha256)
        if found is None:
            raise NotFound("This feedback is about no picture that is kept.")
        body.check_room(request.scope, PIECE_BYTES)
        return await picture_response(self._images.pieces(found), found.size, found.media_type, found.sha256)

    async def remove(self, request: Request) -> Response:
        """Take an entry back."""
        row, author = await self._visible(request)
        if not author.caller.is_admin and (row.author != author.key or author.key == authors.NOBODY):
            raise Forbidden("Only its author takes feedback back, or an administrator.")
        await store.remove(self._database, row.id)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _visible(self, request: Request) -> tuple[Record, Author]:
        """Return an entry, and who asks for it; raises NotFound where there is none that they may see."""
        caller = await self._authentication.admit(request.scope)
        author = authors.author_of(request, caller)
        identifier = query.identifier(request.path_params["id"])
        row = await store.one(self._database, identifier)
        if row is None or not (
            caller.is_admin or row.author == author.key or (caller.sees_unowned and not row.is_private)
        ):
            raise NotFound(f"There is no feedback {identifier}.")
        return row, author

    async def _write(self, items: Sequence[Item]) -> list[Record | ModelServerError]:
        """Write what can be written, in one transaction; in order, the rows or what is wrong."""
        book = await self._shelf.book()
        async with self._database.transaction() as connection:
            ids = {said.prediction_id for said, _ in items} - {None}
            about = await store.predictions(connection, [one for one in ids if one])
            entries = [_entry(item, about, book) for item in items]
            if any(isinstance(entry, Unavailable | Unprocessable) for entry in entries):
                # Perhaps of a version that has just begun to answer.
                book = await self._shelf.book(fresh=True)
                entries = [_entry(item, about, book) for item in items]
            saved = iter(await store.save(connection, [entry for entry in entries if isinstance(entry, Entry)]))
        return [next(saved) if isinstance(entry, Entry) else entry for entry in entries]


def _entry(item: Item, about: dict[Any, Record], book: LabelBook) -> Entry | ModelServerError:
    said, author = item
    try:
        if said.prediction_id is None:
            return judgement.of_words(said, author, book)
        return judgement.of_prediction(said, author, about.get(said.prediction_id), book)
    except ModelServerError as error:
        return error


def resource(row: Record) -> dict[str, Any]:
    """Return an entry as callers see it; ``correct`` is null where there is no verdict."""
    links = {"image": f"/feedback/{row.id}/image"} if row.image_sha256 is not None else {}
    return {
        "id": str(row.id),
        "prediction_id": None if row.prediction_id is None else str(row.prediction_id),
        "user_id": None if row.user_id is None else str(row.user_id),
        "model": row.model,
        "model_version": row.model_version or None,
        "predicted_class": row.predicted_class,
        "score": row.score,
        "correct": row.is_right,
        "correct_class": row.correct_class,
        "feedback": row.comment,
        "image_file_name": row.image_file_name,
        "predicted_at": timestamp(row.predicted_at),
        "created_at": timestamp(row.created_at),
        "updated_at": timestamp(row.updated_at),
        "links": links,
    }
