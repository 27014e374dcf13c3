"""Routes of the prediction resource: read, wait, list, cancel, its image, its events."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from model_server.config import QueueProxySettings
from model_server.errors import Conflict, InvalidInput, NotFound
from model_server.http.replies import json_response
from model_server.queue_proxy import metrics, prefer
from model_server.queue_proxy.resources import Resources, is_finished, resource
from model_server.queue_proxy.watch import Watch
from model_server.store import reads, runs
from model_server.store.database import Database
from model_server.store.models import STATUSES, Record

DEFAULT_PAGE, LARGEST_PAGE = 20, 100
LOOK_AGAIN_SECONDS = 5
"""Whoever waits looks for himself so often, should a notification be lost."""
SILENCE_SECONDS = 15
"""An event stream says something so often, so that proxies do not drop it."""


class PredictionRoutes:
    """One method a route."""

    def __init__(self, settings: QueueProxySettings, database: Database, resources: Resources, watch: Watch) -> None:
        self._settings = settings
        self._database = database
        self._resources = resources
        self._watch = watch

    async def read(self, request: Request) -> Response:
        """Return a prediction, after its end or the preferred wait."""
        identifier = request.path_params["id"]
        wishes = prefer.preferences(request.scope, self._settings.wait_most_seconds)
        row = await self._resources.row(identifier)
        headers = {}
        if wishes.wait_seconds is not None:
            row = await self.wait(row, wishes.wait_seconds)
            headers["Preference-Applied"] = f"wait={wishes.wait_seconds:g}"
        if not is_finished(row):
            headers["Retry-After"] = str(self._settings.retry_after_seconds)
        return json_response(await self._resources.render(row), headers=headers)

    async def wait(self, row: Record, seconds: float) -> Record:
        """Return the row once it is finished, or as it is after ``seconds``."""
        if is_finished(row):
            return row
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self._watch.changes_of(row.id) as changed:
            while not is_finished(row := await self._resources.row(str(row.id))):
                left = end - loop.time()
                if left <= 0 or self._watch.closing:
                    break
                await _set_within(changed, min(left, LOOK_AGAIN_SECONDS))
        return row

    async def list(self, request: Request) -> Response:
        """Return a page of predictions, newest first."""
        status = request.query_params.get("status")
        if status is not None and status not in STATUSES:
            raise InvalidInput(f"status is one of {', '.join(STATUSES)}, not {status[:32]!r}.")
        limit = _limit(request.query_params.get("limit"))
        before = _cursor(request.query_params.get("cursor"))
        rows = await reads.page(self._database, status, limit + 1, before)
        more = len(rows) > limit
        cursor = _as_cursor(rows[limit - 1].id) if more else None
        return json_response({"predictions": [resource(row) for row in rows[:limit]], "next_cursor": cursor})

    async def cancel(self, request: Request) -> Response:
        """Cancel a queued or running prediction."""
        row = await self._resources.row(request.path_params["id"])
        if not await runs.cancel(self._database, row.id):
            row = await self._resources.row(request.path_params["id"])
            raise Conflict(f"The prediction has ended already: {row.status}.")
        metrics.RESULTS.labels("cancelled").inc()
        return json_response(resource(await self._resources.row(str(row.id))))

    async def image(self, request: Request) -> Response:
        """Return the image as it was sent."""
        row = await self._resources.row(request.path_params["id"])
        found = None if row.image_sha256 is None else await reads.image(self._database, row.image_sha256)
        if found is None:
            raise NotFound("This prediction is about several images or arrays; none is stored by itself.")
        headers = {
            "ETag": f'"{row.image_sha256.hex()}"',
            "Cache-Control": "private, max-age=3600",
            # What a stranger sent is shown as an image or not at all.
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        return Response(found.content, headers=headers, media_type=found.media_type)

    async def events(self, request: Request) -> Response:
        """Stream a server-sent event for each change of status, the present one first."""
        row = await self._resources.row(request.path_params["id"])
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(row), media_type="text/event-stream", headers=headers)

    async def _events(self, row: Record) -> AsyncIterator[bytes]:
        told: tuple[str, int] | None = None
        with self._watch.changes_of(row.id) as changed:
            while True:
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
                if not await _set_within(changed, SILENCE_SECONDS):
                    yield b": still waiting\n\n"
                row = await self._resources.row(str(row.id))

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


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_PAGE
    if not given.isdecimal() or not 1 <= int(given) <= LARGEST_PAGE:
        raise InvalidInput(f"limit is an integer of 1 to {LARGEST_PAGE}, not {given[:32]!r}.")
    return int(given)


def _as_cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _cursor(given: str | None) -> UUID | None:
    if given is None:
        return None
    try:
        return UUID(bytes=base64.b64decode(f"{given}==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise InvalidInput("cursor is not one that a page of this list gave.") from None
