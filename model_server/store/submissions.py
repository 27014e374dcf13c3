"""Accepting a prediction: image, row and queue entry in one transaction, identical work once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import orjson
from psycopg import AsyncConnection as DriverConnection
from psycopg import AsyncCursor
from psycopg.rows import namedtuple_row

from model_server.errors import DatabaseUnavailable, ModelServerError, Overloaded, Unprocessable
from model_server.schema import CacheUse
from model_server.store.callbacks import IS_AWAITED, RECEIVERS
from model_server.store.database import Database, driver_of
from model_server.store.failures import ENDED_FOR_OTHERS
from model_server.store.identifiers import new_id
from model_server.store.models import QUEUED, RESOURCE_COLUMNS, SUCCEEDED, Record
from model_server.store.queue.interface import Queue

ATTEMPTS = 5
"""Each time the identical work ends in between, the search begins anew."""

_COLUMNS = ", ".join(column.name for column in RESOURCE_COLUMNS)

# One statement, because each takes a journey of its own; the driver's, because building it anew would cost more than
# running it.
_ACCEPT = f"""
    WITH kept AS (
      INSERT INTO images (sha256, media_type, content)
      SELECT * FROM unnest(%(sha256)s::bytea[], %(media_type)s::text[], %(content)s::bytea[])
      -- Touching what is there keeps the clean-up from removing it before this transaction refers to it.
      ON CONFLICT (sha256) DO UPDATE SET created_at = now()
    ), new AS MATERIALIZED (
      SELECT given.*, coalesce(known, (
        SELECT p.predictions FROM predictions AS p
        WHERE p.work = given.work AND p.model_version = given.version AND p.status = 'succeeded'
          AND p.finished_at > now() - make_interval(secs => given.reuse_seconds)
          AND p.attempts > 0 -- a result that was itself reused does not live on by it
        ORDER BY p.finished_at DESC LIMIT 1)) AS found
      FROM unnest(
        %(id)s::uuid[], %(user_id)s::uuid[], %(model)s::text[], %(version)s::text[], %(reuse_seconds)s::float[],
        %(image_sha256)s::bytea[], %(document)s::bytea[], %(parameters)s::jsonb[], %(priority)s::smallint[],
        %(deadline_seconds)s::float[], %(known)s::jsonb[], %(work)s::bytea[], %(leader)s::uuid[],
        %(idempotency_key)s::text[], %(fingerprint)s::bytea[], %(callback_url)s::text[], %(request_id)s::text[],
        %(traceparent)s::text[], %(forwarded)s::bool[]
      ) AS given (id, user_id, model, version, reuse_seconds, image_sha256, document, parameters, priority,
        deadline_seconds, known, work, leader, idempotency_key, fingerprint, callback_url, request_id, traceparent,
        forwarded)
    ), accepted AS (
      INSERT INTO predictions (
        id, user_id, status, model, model_version, image_sha256, document, parameters, priority, deadline, started_at,
        finished_at, predictions, work, leader, idempotency_key, fingerprint, callback_url, request_id, traceparent,
        forwarded)
      SELECT
        id, user_id, CASE WHEN found IS NULL THEN 'queued' ELSE 'succeeded' END, model,
        CASE WHEN found IS NOT NULL THEN version END, image_sha256, document, parameters, priority,
        now() + make_interval(secs => deadline_seconds), CASE WHEN found IS NOT NULL THEN now() END,
        CASE WHEN found IS NOT NULL THEN now() END, found, work, leader, idempotency_key, fingerprint, callback_url,
        request_id, traceparent, forwarded
      FROM new
      ON CONFLICT DO NOTHING
      RETURNING {_COLUMNS}
    ), told AS (
      INSERT INTO callbacks (prediction_id, receiver)
      SELECT id, receiver FROM accepted, {RECEIVERS} WHERE status = 'succeeded' AND {IS_AWAITED}
    )
    SELECT * FROM accepted
"""  # noqa: S608 - the names of our own columns
_SAME_KEY = f"""
    SELECT {_COLUMNS} FROM predictions
    WHERE idempotency_key = %(key)s AND user_id IS NOT DISTINCT FROM %(user_id)s::uuid
"""  # noqa: S608
_FOLLOW = """
    UPDATE predictions SET followed = TRUE
    WHERE work = %(work)s AND status IN ('queued', 'running') AND leader IS NULL
    RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Submission:
    """One request for a prediction: an image, or a V1 document as it was sent."""

    model: str
    image: bytes | None = None
    image_sha256: bytes | None = None
    media_type: str = ""
    document: bytes | None = None
    images: int = 1
    """How many there are, in the document where it is one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 3
    deadline_seconds: float = 3600
    work: bytes | None = None
    """Hash of everything that decides the result; None: computed anew in any case."""
    version: str | None = None
    place: int | None = None
    """Of its caller in a split; see ``new_id``."""
    reuse_seconds: float = 0
    known: list[Any] | None = None
    """Predictions that ``version`` has made of the same work; stored at once as this one's result."""
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    callback_url: str | None = None
    forwarded: bool = False
    """Whether its result goes to the sink of all results."""
    request_id: str | None = None
    traceparent: str | None = None
    user_id: UUID | None = None
    """Who asks; None: somebody unknown."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A prediction's row, and whether its result is another's."""

    row: Record
    created: bool
    cache: CacheUse | None = None


async def submit(
    database: Database, queue: Queue, submissions: Sequence[Submission]
) -> list[Accepted | ModelServerError]:
    """Record predictions and queue them; attach one to identical work in flight, or answer it from a finished one.

    One transaction for all that attach to nothing. In the order of ``submissions``: what was accepted; Unprocessable
    where an idempotency key belongs to another request; DatabaseUnavailable where only attaching failed, the others
    being committed by then. Raises it where nothing is.
    """
    values = [_values(one) for one in submissions]
    try:
        rows = await _accept(database, queue, values, submissions)
    except DatabaseUnavailable as error:
        # PostgreSQL has ended ours so that another can go on: a second attempt is likely to succeed.
        if not (error.sqlstate or "").startswith(ENDED_FOR_OTHERS):
            raise
        rows = await _accept(database, queue, values, submissions)
    return [
        _accepted(row) if (row := rows.get(value["id"])) else await _attach_or_say(database, queue, one)
        for value, one in zip(values, submissions, strict=True)
    ]


async def _accept(
    database: Database, queue: Queue, values: Sequence[Mapping[str, Any]], submissions: Sequence[Submission]
) -> dict[UUID, Record]:
    """Insert and queue what attaches to nothing; return the rows."""
    # In one order everywhere, as the images are, so that two transactions seldom wait for each other.
    ordered = sorted(values, key=lambda row: (row["work"] or b"", row["idempotency_key"] or ""))
    # An entry that turns out to be needless, because the work is in flight or done, is dropped when it is claimed.
    entries = [(row["id"], row["priority"]) for row in values if row["known"] is None]
    async with database.pipeline() as driver:
        accepting = await _execute(driver, _ACCEPT, _columns(ordered, submissions))
        if entries:
            await queue.announce(driver, entries)
    return {row.id: row for row in await accepting.fetchall()}


def _accepted(row: Record) -> Accepted:
    return Accepted(row, True, "hit" if row.status == SUCCEEDED else None)


async def _attach_or_say(database: Database, queue: Queue, submission: Submission) -> Accepted | ModelServerError:
    try:
        return await _attach(database, queue, submission)
    except DatabaseUnavailable as error:
        return error


async def _attach(database: Database, queue: Queue, submission: Submission) -> Accepted | ModelServerError:
    """Answer a submission whose idempotency key is taken or whose work is in flight."""
    async with database.transaction() as connection:
        driver = await driver_of(connection)
        for _ in range(ATTEMPTS):
            key, work = submission.idempotency_key, submission.work
            if key and (row := await _one(driver, _SAME_KEY, {"key": key, "user_id": submission.user_id})):
                if row.fingerprint == submission.fingerprint:
                    return Accepted(row, created=False)
                return Unprocessable("This Idempotency-Key was used for another request; a new one needs a new key.")
            # Marking it as followed makes its end wait for us.
            if work and (leader := await _one(driver, _FOLLOW, {"work": work})):
                if row := await _insert(driver, submission, leader.id):
                    return Accepted(row, created=True, cache="collapsed")
            # What it would have attached to has ended in between.
            elif row := await _insert(driver, submission):
                if row.status == QUEUED:
                    await queue.announce(driver, [(row.id, row.priority)])
                return _accepted(row)
        return Overloaded("Identical requests come and go too fast to attach to one. Try again.")


async def _insert(driver: DriverConnection[Any], submission: Submission, leader: UUID | None = None) -> Record | None:
    """Insert one; None where its work is in flight or its idempotency key is taken. With a leader it waits for that."""
    return await _one(driver, _ACCEPT, _columns([_values(submission, leader)], [submission]))


def _columns(values: Sequence[Mapping[str, Any]], submissions: Sequence[Submission]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in values] for name in values[0]} | _images(submissions)


def _images(submissions: Sequence[Submission]) -> dict[str, list[Any]]:
    images = {one.image_sha256: one for one in submissions if one.image is not None}
    # In one order everywhere, so that two transactions never wait for each other.
    ordered = [images[sha256] for sha256 in sorted(filter(None, images))]
    return {
        "sha256": [one.image_sha256 for one in ordered],
        "media_type": [one.media_type for one in ordered],
        "content": [one.image for one in ordered],
    }


def _values(submission: Submission, leader: UUID | None = None) -> dict[str, Any]:
    known = None if submission.known is None or leader else orjson.dumps(submission.known).decode()
    return {
        "id": new_id(submission.place),
        "user_id": submission.user_id,
        "model": submission.model,
        "version": submission.version,
        "reuse_seconds": 0.0 if leader else float(submission.reuse_seconds),
        "image_sha256": submission.image_sha256,
        "document": submission.document,
        "parameters": orjson.dumps(submission.parameters).decode(),
        "priority": submission.priority,
        "deadline_seconds": float(submission.deadline_seconds),
        "known": known,
        "work": submission.work,
        "leader": leader,
        "idempotency_key": submission.idempotency_key,
        "fingerprint": submission.fingerprint,
        "callback_url": submission.callback_url,
        "request_id": submission.request_id,
        "traceparent": submission.traceparent,
        "forwarded": submission.forwarded,
    }


async def _execute(driver: DriverConnection[Any], statement: str, values: Mapping[str, Any]) -> AsyncCursor[Any]:
    return await driver.cursor(row_factory=namedtuple_row).execute(statement.encode(), values)


async def _one(driver: DriverConnection[Any], statement: str, values: Mapping[str, Any]) -> Record | None:
    return cast("Record | None", await (await _execute(driver, statement, values)).fetchone())
