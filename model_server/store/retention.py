"""Removing what nobody may ask for any more."""

from __future__ import annotations

from sqlalchemy import text

from model_server.store.database import Database
from model_server.store.images import Images

AT_ONCE = 1000
IMAGE_GRACE_SECONDS = 600
"""An image is written before the prediction that refers to it."""
LOG_SECONDS = 3600
"""PgQueuer writes a line for each step of each job, which nothing here reads."""

_PREDICTIONS = text("""
    WITH gone AS (
      DELETE FROM predictions WHERE id IN (
        SELECT id FROM predictions WHERE finished_at < now() - make_interval(secs => :seconds)
        ORDER BY finished_at LIMIT :most FOR UPDATE SKIP LOCKED)
      RETURNING status, model, coalesce(model_version, '') AS model_version, finished_at
    ), counted AS (
      INSERT INTO prediction_counts (model, model_version, day, predictions)
      SELECT model, model_version, (finished_at AT TIME ZONE 'UTC')::date AS day, count(*)
      FROM gone WHERE status = 'succeeded' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
      ON CONFLICT (model, model_version, day)
        DO UPDATE SET predictions = prediction_counts.predictions + EXCLUDED.predictions
    )
    SELECT count(*) FROM gone
""")
_LOG = text("DELETE FROM pgqueuer_log WHERE created < now() - make_interval(secs => :seconds)")


async def sweep(database: Database, images: Images, retention_seconds: float) -> tuple[int, int]:
    """Remove finished predictions older than the retention, then images without any; return how many of each.

    The report goes on counting what was removed, and the images that feedback is about stay.
    """
    async with database.transaction() as connection:
        counted = await connection.execute(_PREDICTIONS, {"seconds": retention_seconds, "most": AT_ONCE})
        predictions: int = counted.scalar_one()
    removed = await images.sweep(min(IMAGE_GRACE_SECONDS, retention_seconds), AT_ONCE)
    async with database.transaction() as connection:
        await connection.execute(_LOG, {"seconds": LOG_SECONDS})
    return predictions, removed
