"""Feedback: what it is about, writing it, and reading one's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.errors import Gone
from model_server.store.database import Database
from model_server.store.identifiers import new_id
from model_server.store.models import FEEDBACK, Record

FOREIGN_KEY_VIOLATION = "23503"


@dataclass(frozen=True, slots=True)
class Entry:
    """One person's word on one prediction; columns of ``Feedback``."""

    author: UUID
    user_id: UUID | None
    is_private: bool
    prediction_id: UUID | None
    model: str
    model_version: str
    predicted_class: str
    score: float
    correct_class: str | None
    is_right: bool | None
    comment: str
    image_file_name: str
    image_sha256: bytes | None
    predicted_at: datetime | None
    """None: now."""


_KINDS = {
    "author": "uuid",
    "user_id": "uuid",
    "is_private": "boolean",
    "prediction_id": "uuid",
    "model": "text",
    "model_version": "text",
    "predicted_class": "text",
    "score": "float",
    "correct_class": "text",
    "is_right": "boolean",
    "comment": "text",
    "image_file_name": "text",
    "image_sha256": "bytea",
    "predicted_at": "timestamptz",
}
_NAMES = [field.name for field in fields(Entry)]
_REPLACED = [name for name in _NAMES if name not in {"author", "prediction_id"}]

# Written out, because building this statement anew would cost more than running it.
_SAVE = text(f"""
    INSERT INTO feedback (id, {", ".join(_NAMES)})
    SELECT id, {", ".join(_NAMES[:-1])}, coalesce(predicted_at, now())
    FROM unnest(CAST(:id AS uuid[]), {", ".join(f"CAST(:{name} AS {_KINDS[name]}[])" for name in _NAMES)})
      AS new (id, {", ".join(_NAMES)})
    ON CONFLICT (prediction_id, author) WHERE prediction_id IS NOT NULL
      DO UPDATE SET updated_at = now(), {", ".join(f"{name} = EXCLUDED.{name}" for name in _REPLACED)}
    RETURNING *
""")  # noqa: S608 - the names of our own columns
_PREDICTIONS = text("""
    SELECT id, status, model, model_version, predictions, image_sha256, finished_at, user_id FROM predictions
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")


async def predictions(connection: AsyncConnection, ids: Collection[UUID]) -> dict[UUID, Record]:
    """Return what feedback may be about, by id, without those that do not exist."""
    if not ids:
        return {}
    return {row.id: row for row in await connection.execute(_PREDICTIONS, {"ids": list(ids)})}


async def save(connection: AsyncConnection, entries: Sequence[Entry]) -> list[Record]:
    """Write entries and return their rows, in order; a second one of an author on a prediction replaces the first.

    No author and prediction may be in ``entries`` twice. Raises Gone where a picture was removed meanwhile.
    """
    if not entries:
        return []
    # In one order everywhere, so that two transactions never wait for each other.
    order = sorted(range(len(entries)), key=lambda place: (str(entries[place].prediction_id), entries[place].author))
    values = {name: [getattr(entries[place], name) for place in order] for name in _NAMES}
    try:
        rows = (await connection.execute(_SAVE, {"id": [new_id() for _ in order], **values})).all()
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) == FOREIGN_KEY_VIOLATION:
            raise Gone("The prediction is past its retention and removed.") from None
        raise
    by_place = dict(zip(order, rows, strict=True))
    return [by_place[place] for place in range(len(entries))]


async def page(database: Database, author: UUID | None, limit: int, before: UUID | None) -> list[Record]:
    """Return up to ``limit`` entries, newest first, older than ``before``; of everybody where ``author`` is None."""
    statement = select(FEEDBACK).order_by(FEEDBACK.c.id.desc()).limit(limit)
    if author is not None:
        statement = statement.where(FEEDBACK.c.author == author)
    if before is not None:
        statement = statement.where(FEEDBACK.c.id < before)
    async with database.transaction() as connection:
        return list((await connection.execute(statement)).all())


async def one(database: Database, identifier: UUID) -> Record | None:
    """Return one entry."""
    async with database.transaction() as connection:
        return (await connection.execute(select(FEEDBACK).where(FEEDBACK.c.id == identifier))).one_or_none()


async def remove(database: Database, identifier: UUID) -> bool:
    """Remove an entry; False where there is none such."""
    async with database.transaction() as connection:
        removed = await connection.execute(delete(FEEDBACK).where(FEEDBACK.c.id == identifier))
    return bool(removed.rowcount)


async def judged_predictions(connection: AsyncConnection, pictures: Collection[bytes]) -> list[Record]:
    """Return one entry for each prediction about these pictures that somebody has judged."""
    statement = (
        select(FEEDBACK)
        .distinct(FEEDBACK.c.prediction_id)
        .where(FEEDBACK.c.image_sha256.in_(pictures), FEEDBACK.c.prediction_id.is_not(None))
        .order_by(FEEDBACK.c.prediction_id, FEEDBACK.c.id)
    )
    return list((await connection.execute(statement)).all())
