"""Working through the queue: claim, finish exactly once, retry, give back, cancel, expire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import bindparam, case, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, INTEGER, TEXT
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.store import callbacks
from model_server.store.changes import announce
from model_server.store.database import Database, driver_of
from model_server.store.models import CANCELLED, FAILED, IMAGES, RUNNING, SUCCEEDED, Record
from model_server.store.queue.interface import Entry, Queue, QueueTransaction

DEADLINE_EXCEEDED = "deadline_exceeded"
EXPIRED_AT_ONCE = 500
SMALL_BYTES = 1024 * 1024
"""A larger request is not read as it is claimed: dozens are claimed at once."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A prediction to be made now. ``run`` is the fencing token; ``seconds_left`` end at the deadline."""

    id: UUID
    user_id: UUID | None
    run: int
    entry: Entry
    attempts: int
    model: str
    content: bytes | None
    """None: it is large, or in an object, and is read when it is its turn."""
    media_type: str
    image_sha256: bytes | None
    parameters: dict[str, Any]
    seconds_left: float
    seconds_waited: float
    work: bytes | None
    request_id: str | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``predictions``, or an ``error`` for good, or, ``retry_seconds``, for now."""

    claimed: Claimed
    predictions: list[Any] | None = None
    model_version: str | None = None
    error: dict[str, Any] | None = None
    retry_seconds: float | None = None


def _array(name: str, kind: Any) -> Any:
    return bindparam(name, type_=ARRAY(kind))


_CLAIM = text("""
    UPDATE predictions
    SET status = 'running', run = run + 1, attempts = attempts + 1, started_at = now()
    WHERE id = ANY(:ids) AND status IN ('queued', 'running') AND deadline > now()
    RETURNING id, user_id, run, attempts, model, image_sha256, parameters, work, request_id, traceparent,
      CASE WHEN octet_length(document) <= :small THEN document END AS document,
      extract(epoch FROM deadline - now())::float AS seconds_left,
      extract(epoch FROM now() - created_at)::float AS seconds_waited
""").bindparams(_array("ids", PG_UUID))

_DOCUMENT = text("SELECT document FROM predictions WHERE id = :id")

_FINISH = text("""
    UPDATE predictions AS p
    SET status = o.status, predictions = o.predictions::jsonb, error = o.error::jsonb, model_version = o.version,
      finished_at = now()
    FROM unnest(:ids, :runs, :statuses, :predictions, :errors, :versions)
      AS o(id, run, status, predictions, error, version)
    WHERE p.id = o.id AND p.run = o.run AND p.status = 'running'
    RETURNING p.id, p.status, p.followed, (p.callback_url IS NOT NULL OR p.forwarded) AS is_awaited
""").bindparams(
    _array("ids", PG_UUID),
    _array("runs", INTEGER),
    *(_array(name, TEXT) for name in ("statuses", "predictions", "errors", "versions")),
)

_FINISH_FOLLOWERS = text("""
    UPDATE predictions AS p
    SET status = l.status, predictions = l.predictions, error = l.error, model_version = l.model_version,
      started_at = l.started_at, finished_at = l.finished_at
    FROM predictions AS l
    WHERE p.leader = l.id AND l.id = ANY(:ids) AND p.status = 'queued'
    RETURNING p.id, p.status, (p.callback_url IS NOT NULL OR p.forwarded) AS is_awaited
""").bindparams(_array("ids", PG_UUID))

_PUT_BACK = text("""
    UPDATE predictions SET status = 'queued', error = CAST(:error AS jsonb)
    WHERE id = :id AND run = :run AND status = 'running'
    RETURNING id
""")

_CANCEL = text("""
    UPDATE predictions SET status = 'cancelled', finished_at = now()
    WHERE id = :id AND status IN ('queued', 'running')
    RETURNING id, followed, (callback_url IS NOT NULL OR forwarded) AS is_awaited
""")

_EXPIRE = text("""
    UPDATE predictions
    SET status = 'failed', finished_at = now(), error = jsonb_build_object(
      'code', CAST(:code AS text),
      'message', 'The prediction was not made before its deadline.'
        || coalesce(' The last attempt: ' || (error ->> 'message'), ''))
    WHERE id IN (
      SELECT id FROM predictions WHERE status IN ('queued', 'running') AND deadline <= now()
      ORDER BY deadline LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING id, followed, (callback_url IS NOT NULL OR forwarded) AS is_awaited
""")

# Locked, for one of them may be ending meanwhile: it must not be chosen.
_PROMOTE = text("""
    WITH waiting AS (
      SELECT id, leader FROM predictions WHERE leader = ANY(:ids) AND status = 'queued' ORDER BY id FOR UPDATE
    ), next AS (
      SELECT DISTINCT ON (leader) id, leader FROM waiting ORDER BY leader, id
    ), moved AS (
      UPDATE predictions AS p SET leader = next.id FROM next WHERE p.leader = next.leader AND p.id <> next.id
    )
    UPDATE predictions AS p SET leader = NULL, followed = TRUE FROM next WHERE p.id = next.id
    RETURNING p.id, p.priority
""").bindparams(_array("ids", PG_UUID))

_FINISHED = text("SELECT id FROM predictions WHERE id = ANY(:ids) AND status NOT IN ('queued', 'running')").bindparams(
    _array("ids", PG_UUID)
)


async def claim(queue: Queue, most: int) -> list[Claimed]:
    """Take up to ``most`` predictions, most urgent first; fewer only where the queue has no more.

    The entries of what is cancelled or late, or needs no run, leave the queue.
    """
    claimed: list[Claimed] = []
    while len(claimed) < most:
        wanted = most - len(claimed)
        entries, more = await _claim(queue, wanted)
        claimed += more
        if entries < wanted:
            break
    return sorted(claimed, key=lambda one: one.id)


async def _claim(queue: Queue, most: int) -> tuple[int, list[Claimed]]:
    """Return how many entries were taken from the queue, and those of them that are to be run."""
    async with queue.transaction() as transaction:
        entries = {entry.prediction: entry for entry in await transaction.take(most)}
        if not entries:
            return 0, []
        connection = transaction.connection
        rows = (await connection.execute(_CLAIM, {"ids": list(entries), "small": SMALL_BYTES})).all()
        claimed = await _with_content(connection, rows, entries)
        taken = {row.id for row in rows}
        if stale := [entry for prediction, entry in entries.items() if prediction not in taken]:
            await transaction.remove(stale)
        await announce(connection, [(row.id, RUNNING) for row in rows])
        return len(entries), claimed


async def _with_content(
    connection: AsyncConnection, rows: Sequence[Record], entries: dict[UUID, Entry]
) -> list[Claimed]:
    wanted = {row.image_sha256 for row in rows if row.image_sha256 is not None}
    images: dict[bytes, Record] = {}
    if wanted:
        columns = IMAGES.c
        small = case((func.octet_length(columns.content) <= SMALL_BYTES, columns.content)).label("content")
        statement = select(columns.sha256, columns.media_type, small).where(columns.sha256.in_(wanted))
        images = {row.sha256: row for row in await connection.execute(statement)}
    return [_claimed(row, images.get(row.image_sha256), entries[row.id]) for row in rows]


def _claimed(row: Record, image: Record | None, entry: Entry) -> Claimed:
    return Claimed(
        id=row.id,
        user_id=row.user_id,
        run=row.run,
        entry=entry,
        attempts=row.attempts,
        model=row.model,
        content=image.content if image else row.document,
        media_type=image.media_type if image else "application/json",
        image_sha256=row.image_sha256,
        parameters=row.parameters,
        seconds_left=row.seconds_left,
        seconds_waited=row.seconds_waited,
        work=row.work,
        request_id=row.request_id,
        traceparent=row.traceparent,
    )


async def document(database: Database, prediction: UUID) -> bytes:
    """Return the request of a prediction that is about several images, or arrays."""
    async with database.transaction() as connection:
        return bytes((await connection.execute(_DOCUMENT, {"id": prediction})).scalar_one())


async def finish(queue: Queue, outcomes: Sequence[Outcome]) -> set[UUID]:
    """Write how runs ended, all or none; return which predictions were ours to write.

    A run that lost its lease, or whose prediction was cancelled, writes nothing.
    """
    ended = [outcome for outcome in outcomes if outcome.retry_seconds is None]
    async with queue.transaction() as transaction:
        written: set[UUID] = await _finish(transaction, ended) if ended else set()
        for outcome in outcomes:
            if outcome.retry_seconds is not None and await _put_back(transaction, outcome):
                written.add(outcome.claimed.id)
        if lost := [outcome.claimed for outcome in outcomes if outcome.claimed.id not in written]:
            await _let_go(transaction, lost)
    return written


async def _finish(transaction: QueueTransaction, outcomes: Sequence[Outcome]) -> set[UUID]:
    connection = transaction.connection
    values = {
        "ids": [outcome.claimed.id for outcome in outcomes],
        "runs": [outcome.claimed.run for outcome in outcomes],
        "statuses": [FAILED if outcome.error else SUCCEEDED for outcome in outcomes],
        "predictions": [_json(outcome.predictions) for outcome in outcomes],
        "errors": [_json(outcome.error) for outcome in outcomes],
        "versions": [outcome.model_version for outcome in outcomes],
    }
    rows = list((await connection.execute(_FINISH, values)).all())
    written = {row.id for row in rows}
    await transaction.remove([outcome.claimed.entry for outcome in outcomes if outcome.claimed.id in written])
    if followed := [row.id for row in rows if row.followed]:
        rows += (await connection.execute(_FINISH_FOLLOWERS, {"ids": followed})).all()
    await callbacks.schedule(connection, [row.id for row in rows if row.is_awaited])
    await announce(connection, [(row.id, row.status) for row in rows])
    return written


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


async def _put_back(transaction: QueueTransaction, outcome: Outcome) -> bool:
    claimed, delay = outcome.claimed, outcome.retry_seconds or 0
    values = {"id": claimed.id, "run": claimed.run, "error": _json(outcome.error)}
    if (await transaction.connection.execute(_PUT_BACK, values)).one_or_none() is None:
        return False
    await transaction.put_back(claimed.entry, delay)
    await announce(transaction.connection, [(claimed.id, "queued")])
    return True


async def _let_go(transaction: QueueTransaction, lost: Sequence[Claimed]) -> None:
    """Remove the queue entries of what ended meanwhile; what another worker has claimed is left to it."""
    found = await transaction.connection.execute(_FINISHED, {"ids": [one.id for one in lost]})
    finished = set(found.scalars())
    if ended := [one.entry for one in lost if one.id in finished]:
        await transaction.remove(ended)
    if elsewhere := [one.entry for one in lost if one.id not in finished]:
        await transaction.leave(elsewhere)


async def cancel(queue: Queue, prediction: UUID) -> bool:
    """Cancel a queued or running prediction; False where there is none such. A follower takes over its work."""
    async with queue.transaction() as transaction:
        rows = (await transaction.connection.execute(_CANCEL, {"id": prediction})).all()
        await _ended_without_result(queue, transaction.connection, rows, CANCELLED)
    return bool(rows)


async def expire(queue: Queue) -> int:
    """Fail what is past its deadline; return how many."""
    async with queue.transaction() as transaction:
        values = {"code": DEADLINE_EXCEEDED, "most": EXPIRED_AT_ONCE}
        rows = (await transaction.connection.execute(_EXPIRE, values)).all()
        await _ended_without_result(queue, transaction.connection, rows, FAILED)
    return len(rows)


async def _ended_without_result(queue: Queue, connection: AsyncConnection, rows: Sequence[Record], status: str) -> None:
    if followed := [row.id for row in rows if row.followed]:
        promoted = (await connection.execute(_PROMOTE, {"ids": followed})).all()
        if promoted:
            await queue.announce(await driver_of(connection), [(row.id, row.priority) for row in promoted])
    await callbacks.schedule(connection, [row.id for row in rows if row.is_awaited])
    await announce(connection, [(row.id, status) for row in rows])
