"""Removing what nobody may ask for any more."""

from __future__ import annotations

from sqlalchemy import text

from model_server.store.database import Database

AT_ONCE = 1000
IMAGE_GRACE_SECONDS = 600
"""An image is written before the prediction that refers to it."""
LOG_SECONDS = 3600
"""PgQueuer writes a line for each step of each job, which nothing here reads."""

_PREDICTIONS = text("""
    DELETE FROM predictions WHERE id IN (
      SELECT id FROM predictions WHERE finished_at < now() - make_interval(secs => :seconds)
      ORDER BY finished_at LIMIT :most FOR UPDATE SKIP LOCKED)
""")
_IMAGES = text("""
    DELETE FROM images WHERE sha256 IN (
      SELECT sha256 FROM images AS i
      WHERE created_at < now() - make_interval(secs => :seconds)
        AND NOT EXISTS (SELECT FROM predictions AS p WHERE p.image_sha256 = i.sha256)
      LIMIT :most FOR UPDATE SKIP LOCKED)
""")
_LOG = text("DELETE FROM pgqueuer_log WHERE created < now() - make_interval(secs => :seconds)")


async def sweep(database: Database, retention_seconds: float) -> tuple[int, int]:
    """Remove finished predictions older than the retention, then images without any; return how many of each."""
    async with database.transaction() as connection:
        predictions = await connection.execute(_PREDICTIONS, {"seconds": retention_seconds, "most": AT_ONCE})
    async with database.transaction() as connection:
        grace = min(IMAGE_GRACE_SECONDS, retention_seconds)
        images = await connection.execute(_IMAGES, {"seconds": grace, "most": AT_ONCE})
    async with database.transaction() as connection:
        await connection.execute(_LOG, {"seconds": LOG_SECONDS})
    return predictions.rowcount, images.rowcount
