"""Removing what nobody may ask for any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy import text

from model_server.store.database import Database
from model_server.store.images import Images

AT_ONCE = 1000
"""In one transaction: short ones hold up nobody."""
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
    """Remove all finished predictions older than the retention, then images without any; return how many of each.

    The report goes on counting what was removed, and the images that feedback is about stay.
    """
    predictions = await _until_few(lambda: _remove_predictions(database, retention_seconds))
    # Each submission touches its image, so that none is without a prediction sooner, but one that failed on its way.
    removed = await _until_few(lambda: images.sweep(retention_seconds, AT_ONCE))
    async with database.transaction() as connection:
        await connection.execute(_LOG, {"seconds": LOG_SECONDS})
    return predictions, removed


async def _until_few(remove: Callable[[], Awaitable[int]]) -> int:
    """Call ``remove`` until it finds fewer than it may remove at once; return how many there were in all."""
    total = removed = await remove()
    while removed == AT_ONCE:
        removed = await remove()
        total += removed
    return total


async def _remove_predictions(database: Database, retention_seconds: float) -> int:
    async with database.transaction() as connection:
        counted = await connection.execute(_PREDICTIONS, {"seconds": retention_seconds, "most": AT_ONCE})
        return int(counted.scalar_one())
