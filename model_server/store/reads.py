"""What callers see: one prediction, a page of them, an image, the state of the queue."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from psycopg.rows import namedtuple_row
from sqlalchemy import CTE, ColumnElement, Text, cast, func, literal, select, text, true, tuple_

from model_server.store.database import Database
from model_server.store.models import IMAGES, PREDICTIONS, QUEUED, RESOURCE_COLUMNS, Record

PAGE_BYTES = 4 * 1024 * 1024

_STATE = text("""
    WITH recent AS (
      SELECT started_at, finished_at FROM predictions
      WHERE status = 'succeeded' AND attempts > 0
      ORDER BY finished_at DESC LIMIT 100
    ), spans AS ( -- what each adds to the time in which at least one ran
      SELECT finished_at - started_at AS run,
        finished_at - greatest(started_at,
          max(finished_at) OVER (ORDER BY started_at, finished_at ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW)) AS busy
      FROM recent
    )
    SELECT
      (SELECT coalesce(array_agg(waiting.number ORDER BY urgency), '{}') FROM (
        SELECT urgency, (SELECT count(*) FROM predictions
          WHERE status = 'queued' AND leader IS NULL AND priority = urgency) AS number
        FROM generate_series(0, 7) AS urgency) AS waiting) AS queued_by_urgency,
      (SELECT count(*) FROM predictions WHERE status = 'running') AS running,
      coalesce((SELECT extract(epoch FROM now() - created_at)::float FROM predictions
        WHERE status = 'queued' AND leader IS NULL ORDER BY id LIMIT 1), 0) AS oldest_age_seconds, -- ids sort by time
      (SELECT extract(epoch FROM avg(run))::float FROM spans) AS run_seconds,
      (SELECT extract(epoch FROM sum(greatest(busy, '0')) / count(*))::float FROM spans) AS seconds_between_ends,
      (SELECT count(*) FROM callbacks WHERE receiver = 'callback' AND gave_up_at IS NULL) AS callbacks,
      (SELECT count(*) FROM callbacks WHERE receiver = 'sink') AS results_to_forward,
      (SELECT count(*) FROM outbox) AS unpublished
""")


_BY_IDENTIFIER = f"""
    SELECT {", ".join(column.name for column in RESOURCE_COLUMNS)} FROM predictions WHERE id = ANY(%s)
""".encode()  # noqa: S608 - the names of our own columns


class Everybody(Enum):
    """No restriction to one user's."""

    EVERYBODY = auto()


EVERYBODY = Everybody.EVERYBODY


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits and what runs; ``queued_by_urgency`` has eight numbers, the most urgent first.

    Of the last hundred runs, None before the first: ``run_seconds`` is their mean, ``seconds_between_ends`` the time in
    which at least one of them ran, for each: the inverse of the service rate.
    """

    queued_by_urgency: list[int]
    running: int
    oldest_age_seconds: float
    run_seconds: float | None
    seconds_between_ends: float | None
    callbacks: int
    results_to_forward: int
    unpublished: int

    @property
    def queued(self) -> int:
        """How many wait, whatever their urgency."""
        return sum(self.queued_by_urgency)


async def prediction(database: Database, identifier: UUID) -> Record | None:
    """Return the row of one prediction."""
    return (await predictions(database, [identifier]))[0]


async def predictions(database: Database, identifiers: Sequence[UUID]) -> list[Record | None]:
    """Return the row of each prediction, None for one that is not there."""
    async with database.pipeline() as driver:
        cursor = await driver.cursor(row_factory=namedtuple_row).execute(_BY_IDENTIFIER, [list(identifiers)])
    rows = {row.id: row for row in typing.cast("list[Record]", await cursor.fetchall())}
    return [rows.get(identifier) for identifier in identifiers]


async def page(
    database: Database, whose: UUID | Everybody | None, status: str | None, limit: int, before: UUID | None
) -> tuple[list[Record], bool]:
    """Return up to ``limit`` predictions, newest first, older than ``before``, and whether there are more.

    ``whose``: a user's, None: those of nobody known, or EVERYBODY's. A page ends with the prediction by which its
    results have 4 MiB as text.
    """
    wanted = [] if isinstance(whose, Everybody) else [PREDICTIONS.c.user_id == whose]  # `IS NULL` for None
    if status is not None:
        wanted.append(PREDICTIONS.c.status == status)
    ids = _page_of_ids(wanted, limit, before)
    found = select(func.count()).select_from(ids).scalar_subquery().label("found")
    statement = (
        select(*RESOURCE_COLUMNS, found)
        .join_from(PREDICTIONS, ids, PREDICTIONS.c.id == ids.c.id)
        .where(ids.c.number <= limit, ids.c.bytes_before < PAGE_BYTES)
        .order_by(PREDICTIONS.c.id.desc())
    )
    async with database.transaction() as connection:
        rows = list((await connection.execute(statement)).all())
    return rows, bool(rows) and rows[0].found > len(rows)


def _page_of_ids(wanted: list[ColumnElement[bool]], limit: int, before: UUID | None) -> CTE:
    """Return the wanted identifiers one by one, and the first that does not fit on the page any more.

    One by one, because the size of a result is known once it is read, and a hundred may have hundreds of megabytes.
    """
    columns = PREDICTIONS.c
    size = func.coalesce(func.octet_length(cast(columns.predictions, Text)), 0)
    newest = select(columns.id, size.label("size")).where(*wanted).order_by(columns.id.desc()).limit(1)
    start = (newest if before is None else newest.where(columns.id < before)).subquery()
    ids = select(start, literal(1).label("number"), literal(0).label("bytes_before")).cte("ids", recursive=True)
    older = newest.where(columns.id < ids.c.id).lateral()
    following = (
        select(older, ids.c.number + 1, ids.c.bytes_before + ids.c.size)
        .join_from(ids, older, true())
        .where(ids.c.number <= limit, ids.c.bytes_before < PAGE_BYTES)
    )
    return ids.union_all(following)


async def last_model(database: Database) -> str | None:
    """Return the model of the newest prediction; None before the first."""
    statement = select(PREDICTIONS.c.model).order_by(PREDICTIONS.c.id.desc()).limit(1)
    async with database.transaction() as connection:
        return (await connection.execute(statement)).scalar_one_or_none()


async def image(database: Database, sha256: bytes) -> Record | None:
    """Return ``sha256``, ``media_type``, and ``content``, None where it is in an object, of an image."""
    statement = select(IMAGES.c.sha256, IMAGES.c.media_type, IMAGES.c.content).where(IMAGES.c.sha256 == sha256)
    async with database.transaction() as connection:
        return (await connection.execute(statement)).one_or_none()


async def position(database: Database, row: Record) -> int:
    """Return how many predictions are taken before a queued one; 0: it is next."""
    columns = PREDICTIONS.c
    statement = (
        select(func.count())
        .select_from(PREDICTIONS)
        .where(columns.status == QUEUED, columns.leader.is_(None))
        .where(tuple_(columns.priority, columns.id) < tuple_(literal(row.priority), literal(row.leader or row.id)))
    )
    async with database.transaction() as connection:
        return int((await connection.execute(statement)).scalar_one())


async def state(database: Database) -> QueueState:
    """Return the state of the queue, all replicas together."""
    async with database.transaction() as connection:
        return QueueState(*(await connection.execute(_STATE)).one())
