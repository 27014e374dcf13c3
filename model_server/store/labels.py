"""The classes of each model version, remembered for when the predictor is away."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text

from model_server.store.database import Database
from model_server.store.models import MODEL_LABELS, Record

_REMEMBER = text("""
    INSERT INTO model_labels (model, model_version, labels) VALUES (:model, :version, CAST(:labels AS text[]))
    ON CONFLICT (model, model_version) DO UPDATE SET labels = EXCLUDED.labels, seen_at = now()
""")


async def remember(database: Database, model: str, version: str, labels: Sequence[str]) -> None:
    """Keep the labels of a model version, in the order of its scores."""
    async with database.transaction() as connection:
        await connection.execute(_REMEMBER, {"model": model, "version": version, "labels": list(labels)})


async def known(database: Database) -> list[Record]:
    """Return ``model``, ``model_version``, ``labels`` and ``seen_at`` of every version, the one last seen first."""
    async with database.transaction() as connection:
        statement = select(MODEL_LABELS).order_by(MODEL_LABELS.c.seen_at.desc(), MODEL_LABELS.c.model)
        return list((await connection.execute(statement)).all())
