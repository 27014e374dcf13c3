"""Accepting a prediction: image, row and queue entry in one transaction, identical work once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.errors import ModelServerError, Overloaded, Unprocessable
from model_server.store import callbacks, queue
from model_server.store.database import Database
from model_server.store.identifiers import new_id
from model_server.store.models import QUEUED, RESOURCE_COLUMNS, SUCCEEDED, Record

CacheUse = Literal["hit", "collapsed"]
ATTEMPTS = 5
"""Each time the identical work ends in between, the search begins anew."""

_COLUMNS = ", ".join(column.name for column in RESOURCE_COLUMNS)

# Written out, because building these statements anew would cost more than running them.
_KEEP_IMAGES = text("""
    INSERT INTO images (sha256, media_type, content)
    SELECT * FROM unnest(CAST(:sha256 AS bytea[]), CAST(:media_type AS text[]), CAST(:content AS bytea[]))
    -- Touching what is there keeps the clean-up from removing it before this transaction refers to it.
    ON CONFLICT (sha256) DO UPDATE SET created_at = now()
""")
_INSERT = text(f"""
    INSERT INTO predictions (
      id, user_id, status, model, model_version, image_sha256, document, parameters, priority, deadline, started_at,
      finished_at, predictions, work, leader, idempotency_key, fingerprint, callback_url, request_id, traceparent)
    SELECT
      id, user_id, status, model, model_version, image_sha256, document, parameters, priority,
      now() + make_interval(secs => deadline_seconds),
      CASE WHEN predictions IS NOT NULL THEN now() END, CASE WHEN predictions IS NOT NULL THEN now() END,
      predictions, work, leader, idempotency_key, fingerprint, callback_url, request_id, traceparent
    FROM unnest(
      CAST(:id AS uuid[]), CAST(:user_id AS uuid[]), CAST(:status AS text[]), CAST(:model AS text[]),
      CAST(:model_version AS text[]), CAST(:image_sha256 AS bytea[]), CAST(:document AS bytea[]),
      CAST(:parameters AS jsonb[]),
      CAST(:priority AS smallint[]), CAST(:deadline_seconds AS float[]), CAST(:predictions AS jsonb[]),
      CAST(:work AS bytea[]), CAST(:leader AS uuid[]), CAST(:idempotency_key AS text[]), CAST(:fingerprint AS bytea[]),
      CAST(:callback_url AS text[]), CAST(:request_id AS text[]), CAST(:traceparent AS text[])
    ) AS new (id, user_id, status, model, model_version, image_sha256, document, parameters, priority, deadline_seconds,
      predictions, work, leader, idempotency_key, fingerprint, callback_url, request_id, traceparent)
    ON CONFLICT DO NOTHING
    RETURNING {_COLUMNS}
""")  # noqa: S608 - the names of our own columns
_FINISHED_ALIKE = text("""
    SELECT DISTINCT ON (p.work) p.work, p.predictions, p.model_version
    FROM unnest(CAST(:works AS bytea[]), CAST(:versions AS text[]), CAST(:seconds AS float[]))
      AS wanted (work, version, seconds)
    JOIN predictions AS p ON p.work = wanted.work AND p.model_version = wanted.version
    WHERE p.status = 'succeeded' AND p.finished_at > now() - make_interval(secs => wanted.seconds)
      AND p.attempts > 0 -- a result that was itself reused does not live on by it
    ORDER BY p.work, p.finished_at DESC
""")
_SAME_KEY = text(f"""
    SELECT {_COLUMNS} FROM predictions
    WHERE idempotency_key = :key AND user_id IS NOT DISTINCT FROM CAST(:user_id AS uuid)
""")  # noqa: S608
_FOLLOW = text("""
    UPDATE predictions SET followed = TRUE
    WHERE work = :work AND status IN ('queued', 'running') AND leader IS NULL
    RETURNING id
""")


@dataclass(frozen=True, slots=True)
class Submission:
    """One request for a prediction: an image, or a V1 document as it was sent."""

    model: str
    user_id: UUID | None = None
    """Who asks; None: somebody unknown."""
    image: bytes | None = None
    image_sha256: bytes | None = None
    media_type: str = ""
    document: bytes | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 3
    deadline_seconds: float = 3600
    work: bytes | None = None
    """Hash of everything that decides the result; None: computed anew in any case."""
    version: str | None = None
    reuse_seconds: float = 0
    known: list[Any] | None = None
    """Predictions that ``version`` has made of the same work; stored at once as this one's result."""
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    callback_url: str | None = None
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A prediction's row, and whether its result is another's."""

    row: Record
    created: bool
    cache: CacheUse | None = None


async def submit(database: Database, submissions: Sequence[Submission]) -> list[Accepted | ModelServerError]:
    """Record predictions and queue them; attach one to identical work in flight, or answer it from a finished one.

    One transaction for all. In the order of ``submissions``: what was accepted, or Unprocessable where an idempotency
    key belongs to another request. Raises DatabaseUnavailable.
    """
    async with database.transaction() as connection:
        await _keep_images(connection, submissions)
        done = await _finished_alike(connection, submissions)
        rows = await _insert(connection, [_values(one, done=done.get(_wanted(one))) for one in submissions])
        await _queue(connection, [row for row in rows if row and row.status == QUEUED])
        return [
            Accepted(row, True, "hit" if row.status == SUCCEEDED else None) if row else await _attach(connection, one)
            for row, one in zip(rows, submissions, strict=True)
        ]


async def _attach(connection: AsyncConnection, submission: Submission) -> Accepted | ModelServerError:
    """Answer a submission whose idempotency key is taken or whose work is in flight."""
    for _ in range(ATTEMPTS):
        if submission.idempotency_key and (row := await _same_key(connection, submission)):
            if row.fingerprint == submission.fingerprint:
                return Accepted(row, created=False)
            return Unprocessable("This Idempotency-Key was used for another request; a new request needs a new key.")
        if submission.work and (leader := await _leader_of(connection, submission.work)):
            (row,) = await _insert(connection, [_values(submission, leader=leader)])
            if row:
                return Accepted(row, created=True, cache="collapsed")
        # What it would have attached to has ended in between.
        done = await _finished_alike(connection, [submission])
        (row,) = await _insert(connection, [_values(submission, done=done.get(_wanted(submission)))])
        if row:
            await _queue(connection, [row] if row.status == QUEUED else [])
            return Accepted(row, True, "hit" if row.status == SUCCEEDED else None)
    return Overloaded("Identical requests come and go too fast to attach to one. Try again.")


async def _queue(connection: AsyncConnection, rows: Sequence[Record]) -> None:
    if rows:
        await queue.enqueue(connection, [(row.id, row.priority) for row in rows])


async def _keep_images(connection: AsyncConnection, submissions: Sequence[Submission]) -> None:
    images = {one.image_sha256: one for one in submissions if one.image is not None}
    if images:
        # In one order everywhere, so that two transactions never wait for each other.
        ordered = [images[sha256] for sha256 in sorted(filter(None, images))]
        values = {
            "sha256": [one.image_sha256 for one in ordered],
            "media_type": [one.media_type for one in ordered],
            "content": [one.image for one in ordered],
        }
        await connection.execute(_KEEP_IMAGES, values)


def _values(submission: Submission, done: list[Any] | None = None, leader: UUID | None = None) -> dict[str, Any]:
    predictions = submission.known or done
    return {
        "id": new_id(),
        "user_id": submission.user_id,
        "status": SUCCEEDED if predictions else QUEUED,
        "model": submission.model,
        "model_version": submission.version if predictions else None,
        "image_sha256": submission.image_sha256,
        "document": submission.document,
        "parameters": orjson.dumps(submission.parameters).decode(),
        "priority": submission.priority,
        "deadline_seconds": submission.deadline_seconds,
        "predictions": orjson.dumps(predictions).decode() if predictions else None,
        "work": submission.work,
        "leader": leader,
        "idempotency_key": submission.idempotency_key,
        "fingerprint": submission.fingerprint,
        "callback_url": submission.callback_url,
        "request_id": submission.request_id,
        "traceparent": submission.traceparent,
    }


async def _insert(connection: AsyncConnection, values: Sequence[dict[str, Any]]) -> list[Record | None]:
    """Insert rows, in their order; None where the work is in flight or the idempotency key is taken."""
    columns = {name: [row[name] for row in values] for name in values[0]}
    rows = {row.id: row for row in await connection.execute(_INSERT, columns)}
    done = [row.id for row in rows.values() if row.status == SUCCEEDED and row.callback_url]
    await callbacks.schedule(connection, done)
    return [rows.get(row["id"]) for row in values]


def _wanted(submission: Submission) -> tuple[bytes, str] | None:
    """Return what a finished prediction must agree with to answer this one; None: none is looked for."""
    if submission.work and submission.version and submission.reuse_seconds and not submission.known:
        return submission.work, submission.version
    return None


async def _finished_alike(
    connection: AsyncConnection, submissions: Sequence[Submission]
) -> dict[tuple[bytes, str] | None, list[Any]]:
    """Return the newest predictions made of the same work by the same version, of those that may be reused."""
    wanted = [(one, key) for one in submissions if (key := _wanted(one))]
    if not wanted:
        return {}
    values = {
        "works": [work for _, (work, _) in wanted],
        "versions": [version for _, (_, version) in wanted],
        "seconds": [one.reuse_seconds for one, _ in wanted],
    }
    rows = await connection.execute(_FINISHED_ALIKE, values)
    return {(row.work, row.model_version): row.predictions for row in rows}


async def _same_key(connection: AsyncConnection, submission: Submission) -> Record | None:
    """Return the prediction that the same user has asked for under the same key."""
    values = {"key": submission.idempotency_key, "user_id": submission.user_id}
    return (await connection.execute(_SAME_KEY, values)).one_or_none()


async def _leader_of(connection: AsyncConnection, work: bytes) -> UUID | None:
    """Mark the prediction that does this work as followed, which makes its end wait for us, and return it."""
    return (await connection.execute(_FOLLOW, {"work": work})).scalar_one_or_none()
