"""What was asked for lately and what came of it: a sample to try another model on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from model_server.store.database import Database

# Of the newest predictions, each image once; four times as many rows leave room for images that were sent again.
_RECENT = text("""
    WITH newest AS (
      SELECT image_sha256, parameters, predictions, finished_at FROM predictions
      WHERE status = 'succeeded' AND model = :model AND model_version = :version AND image_sha256 IS NOT NULL
        AND finished_at IS NOT NULL
      ORDER BY finished_at DESC LIMIT 4 * :most
    ), once AS (
      SELECT DISTINCT ON (image_sha256) * FROM newest ORDER BY image_sha256, finished_at DESC
    )
    SELECT image_sha256, parameters, predictions->0->>'label' AS label FROM once ORDER BY finished_at DESC LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class Judged:
    """An image's hash, the parameters it came with, and the best class that was found."""

    sha256: bytes
    parameters: Mapping[str, Any]
    label: str


async def judged(database: Database, model: str, version: str, most: int) -> list[Judged]:
    """Return up to ``most`` images, newest first, that a version has classified out of the queue."""
    values = {"model": model, "version": version, "most": most}
    async with database.transaction() as connection:
        rows = (await connection.execute(_RECENT, values)).all()
    return [Judged(bytes(row.image_sha256), row.parameters, row.label) for row in rows if row.label is not None]
