"""Routes of the prediction resource: read, wait, list, cancel, its image, its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from model_server.errors import Conflict, InvalidInput, NotFound, shown
from model_server.http import body, paging
from model_server.http.replies import json_response, picture_response
from model_server.queue_proxy import metrics, prefer
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.resources import is_finished, resource
from model_server.store import reads, runs
from model_server.store.images import PIECE_BYTES
from model_server.store.models import STATUSES, Record
from model_server.store.waiting import is_set_within

LOOK_AGAIN_SECONDS = 5
"""Whoever waits looks for himself so often, should a notification be lost."""
SILENCE_SECONDS = 15
"""An event stream says something so often, so that proxies do not drop it."""


class PredictionRoutes:
    """One method a route."""

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._database = parts.database
        self._queue = parts.queue
        self._images = parts.images
        self._authentication = parts.authentication
        self._resources = parts.resources
        self._watch = parts.watch

    async def read(self, request: Request) -> Response:
        """Return a prediction, after its end or the preferred wait."""
        wishes = prefer.preferences(request.scope, self._settings.wait_most_seconds)
        row = await self._row(request)
        headers = {}
        if wishes.wait_seconds is not None:
            row = await self.wait(row, wishes.wait_seconds)
            headers["Preference-Applied"] = f"wait={wishes.wait_seconds:g}"
        if not is_finished(row):
            headers["Retry-After"] = str(self._settings.retry_after_seconds)
        return json_response(await self._resources.render(row), headers=headers)

    async def _row(self, request: Request) -> Record:
        """Return the prediction that the path names, if it is the caller's to see."""
        caller = await self._authentication.admit(request.scope)
        return await self._resources.row(request.path_params["id"], caller)

    async def wait(self, row: Record, seconds: float) -> Record:
        """Return the row once it is finished, or as it is after ``seconds``."""
        if is_finished(row):
            return row
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self._watch.changes_of(row.id, end_only=True) as changed:
            while not is_finished(row := await self._resources.again(row)):
                left = end - loop.time()
                if left <= 0 or self._watch.closing:
                    break
                await is_set_within(changed, min(left, LOOK_AGAIN_SECONDS))
                changed.clear()
        return row

    async def list(self, request: Request) -> Response:
        """Return a page of the caller's predictions, newest first; to an administrator everybody's."""
        caller = await self._authentication.admit(request.scope)
        status = request.query_params.get("status")
        if status is not None and status not in STATUSES:
            raise InvalidInput(f"status is one of {', '.join(STATUSES)}, not {shown(status)}.")
        limit, before = paging.limit(request), paging.cursor(request)
        whose = reads.EVERYBODY if caller.is_admin else caller.user_id
        rows, more = await reads.page(self._database, whose, status, limit, before)
        found = [resource(row) for row in rows]
        return json_response({"predictions": found, "next_cursor": paging.cursor_after(rows[-1]) if more else None})

    async def cancel(self, request: Request) -> Response:
        """Cancel a queued or running prediction."""
        row = await self._row(request)
        if not await runs.cancel(self._queue, row.id):
            row = await self._resources.again(row)
            raise Conflict(f"The prediction has ended already: {row.status}.")
        metrics.RESULTS.labels("cancelled").inc()
        return json_response(resource(await self._resources.again(row)))

    async def image(self, request: Request) -> Response:
        """Return the image as it was sent."""
        row = await self._row(request)
        found = await self._images.find(row.image_sha256)
        if found is None:
            raise NotFound("This prediction is about several images or arrays; none is stored by itself.")
        body.check_room(request.scope, PIECE_BYTES)
        return await picture_response(self._images.pieces(found), found.size, found.media_type, found.sha256)

    async def events(self, request: Request) -> Response:
        """Stream a server-sent event for each change of status, the present one first."""
        row = await self._row(request)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(row), media_type="text/event-stream", headers=headers)

    async def _events(self, row: Record) -> AsyncIterator[bytes]:
        told: tuple[str, int] | None = None
        with self._watch.changes_of(row.id) as changed:
            while True:
                row = await self._resources.again(row)
                if told != (row.status, row.run):
                    told = row.status, row.run
                    data = orjson.dumps(await self._resources.render(row))
                    yield b"id: %d-%s\nevent: %s\ndata: %s\n\n" % (
                        row.run,
                        row.status.encode(),
                        row.status.encode(),
                        data,
                    )
                if is_finished(row) or self._watch.closing:
                    return
                if not await is_set_within(changed, SILENCE_SECONDS):
                    yield b": still waiting\n\n"
                changed.clear()

    async def queue(self, _request: Request) -> Response:
        """Return what an autoscaler reads."""
        state = await self._resources.state()
        return json_response(
            {
                "queued": state.queued,
                "running": state.running,
                "oldest_age_seconds": round(state.oldest_age_seconds, 3),
            }
        )
