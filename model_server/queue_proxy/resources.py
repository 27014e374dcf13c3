"""The prediction resource: what callers see of a row, with its place in the queue while it waits."""

from __future__ import annotations

import asyncio
import re
import time
from uuid import UUID

from model_server.accounts.caller import Caller
from model_server.config import QueueProxySettings
from model_server.errors import Gone, NotFound, shown
from model_server.http.replies import timestamp
from model_server.queue_proxy import metrics
from model_server.schema import PredictionResource
from model_server.store import reads
from model_server.store.database import Database
from model_server.store.gather import Gatherer
from model_server.store.models import QUEUED, UNFINISHED, Record
from model_server.store.reads import QueueState

UUIDV7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
COUNTED = 100
"""In a longer queue, counting for every request would cost as much as storing it."""
NOTHING = [0] * 8
STATE_SECONDS = 0.5
"""The queue's state is read at most so often, whoever asks."""


class Resources:
    """Reads predictions and renders them."""

    def __init__(self, settings: QueueProxySettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._state: tuple[float, QueueState] | None = None
        self._accepted = NOTHING.copy()
        self._reading = asyncio.Lock()
        # Predictions end by the dozen, and so do the waits for them.
        self._present: Gatherer[UUID, Record | None] = Gatherer(lambda wanted: reads.predictions(database, wanted))

    async def state(self) -> QueueState:
        """Return the queue's state, at most half a second old."""
        async with self._reading:
            now = time.monotonic()
            if self._state is None or now - self._state[0] > STATE_SECONDS:
                self._accepted = NOTHING.copy()
                self._state = now, await reads.state(self._database)
                state = self._state[1]
                metrics.QUEUED.set(state.queued)
                metrics.RUNNING.set(state.running)
                metrics.OLDEST_AGE_SECONDS.set(state.oldest_age_seconds)
                metrics.CALLBACKS_WAITING.set(state.callbacks)
                metrics.FORWARDING_WAITING.set(state.results_to_forward)
                metrics.UNPUBLISHED.set(state.unpublished)
            return self._state[1]

    async def row(self, identifier: str, caller: Caller) -> Record:
        """Return a prediction's row, if it is the caller's to see.

        Raises NotFound, or Gone for an id older than the retention; another's is as if it did not exist.
        """
        known = _uuid(identifier)
        row = await reads.prediction(self._database, known)
        if row is not None and caller.may_see(row.user_id):
            return row
        raise self._missing(known)

    async def again(self, row: Record) -> Record:
        """Return the present state of a row that was read before; raises NotFound or Gone where it is removed."""
        present = await self._present.put(row.id)
        if present is None:
            raise self._missing(row.id)
        return present

    def _missing(self, known: UUID) -> NotFound | Gone:
        if time.time() - (known.int >> 80) / 1000 > self._settings.retention_seconds:
            return Gone(f"The prediction {known} is past its retention and removed.")
        return NotFound(f"There is no prediction {known}.")

    async def render_new(self, row: Record) -> PredictionResource:
        """Return the resource of a prediction just accepted; in a long queue its position is estimated."""
        if row.status != QUEUED:
            return resource(row)
        state = await self.state()
        self._accepted[row.priority] += 1
        ahead = sum(state.queued_by_urgency[: row.priority + 1])
        if ahead < COUNTED:
            return await self.render(row)
        ahead += sum(self._accepted[: row.priority + 1]) - 1
        return resource(row, ahead, self._estimate(ahead, state))

    async def render(self, row: Record) -> PredictionResource:
        """Return the resource, with position and estimate while it is queued."""
        if row.status != QUEUED:
            return resource(row)
        ahead = await reads.position(self._database, row)
        return resource(row, ahead, self._estimate(ahead, await self.state()))

    def _estimate(self, ahead: int, state: QueueState) -> float | None:
        """Return seconds until done: those ahead at the rate of the last runs, and then a run's own time."""
        if state.run_seconds is None or state.seconds_between_ends is None:
            return None
        return round(ahead * state.seconds_between_ends + state.run_seconds, 3)


def _uuid(identifier: str) -> UUID:
    if not UUIDV7.fullmatch(identifier):
        raise NotFound(
            f"There is no prediction {shown(identifier)}: an id looks like 01890a5d-ac96-774b-bcce-b302099a8057."
        )
    return UUID(identifier)


def resource(row: Record, position: int | None = None, eta_seconds: float | None = None) -> PredictionResource:
    """Return a row as callers see it."""
    path = f"/v1/predictions/{row.id}"
    links = {"self": path, "events": f"{path}/events"}
    if row.image_sha256 is not None:
        links["image"] = f"{path}/image"
    return {
        "id": str(row.id),
        "status": row.status,
        "model": row.model,
        "model_version": row.model_version,
        "created_at": timestamp(row.created_at),
        "started_at": timestamp(row.started_at),
        "finished_at": timestamp(row.finished_at),
        "deadline": timestamp(row.deadline),
        "attempts": row.attempts,
        "position": position,
        "eta_seconds": eta_seconds,
        "predictions": row.predictions,
        "error": row.error,
        "image_sha256": row.image_sha256.hex() if row.image_sha256 is not None else None,
        "links": links,
    }


def is_finished(row: Record) -> bool:
    """Whether nothing about a prediction will change any more."""
    return row.status not in UNFINISHED
