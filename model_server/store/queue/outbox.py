"""Announcements that are committed with what they announce, and published afterwards: at least once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection as DriverConnection
from sqlalchemy import text

from model_server.store.database import Database
from model_server.store.models import Record

CHANNEL = "model_server_outbox"

# What turned out to be needless in the same transaction, as its work is in flight or done, is left out.
_PUT = b"""
    INSERT INTO outbox (prediction_id, priority, due_at)
    SELECT id, priority, now() + make_interval(secs => %(seconds)s) FROM predictions
    WHERE id = ANY(%(ids)s::uuid[]) AND status = 'queued' AND leader IS NULL
"""
_TAKE = text("""
    DELETE FROM outbox WHERE id IN (
      SELECT id FROM outbox WHERE due_at <= now() ORDER BY priority, id LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING prediction_id, priority
""")
_PUT_UNFINISHED = text("""
    WITH ours AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(:lock) AS held)
    INSERT INTO outbox (prediction_id, priority)
    SELECT p.id, p.priority FROM predictions AS p
    WHERE (SELECT held FROM ours) AND p.leader IS NULL
      AND (p.status = 'queued' OR p.status = 'running' AND p.started_at < now() - make_interval(secs => :seconds))
      AND NOT EXISTS (SELECT FROM outbox AS o WHERE o.prediction_id = p.id)
""")
_LOCK = 7_305_809_154_023
"""Advisory lock of who puts those; any constant, the same in every version."""
_TAKE_OVER = text("""
    WITH taken AS (
      DELETE FROM pgqueuer WHERE id IN (
        SELECT id FROM pgqueuer
        WHERE status = 'queued' OR status = 'picked' AND heartbeat < now() - make_interval(secs => :lease_seconds)
        LIMIT :most FOR UPDATE SKIP LOCKED)
      RETURNING encode(payload, 'hex')::uuid AS prediction, execute_after
    )
    INSERT INTO outbox (prediction_id, priority, due_at)
    SELECT p.id, p.priority, taken.execute_after FROM taken JOIN predictions AS p ON p.id = taken.prediction
    WHERE p.status IN ('queued', 'running')
""")


async def put(driver: DriverConnection[Any], predictions: Sequence[UUID], delay_seconds: float = 0) -> None:
    """Announce queued predictions, due after the delay, in the connection's transaction; fetches nothing."""
    await driver.execute(_PUT, {"ids": list(predictions), "seconds": float(delay_seconds)})


async def publish(database: Database, most: int, send: Callable[[Sequence[Record]], Awaitable[None]]) -> int:
    """Send up to ``most`` that are due, most urgent first, as (prediction_id, priority); return how many there were.

    They are forgotten once ``send`` has returned; what it raises leaves them as they are. Several processes share the
    work. Raises DatabaseUnavailable.
    """
    async with database.transaction() as connection:
        # What a crash of PostgreSQL brings back is sent again: waiting for the disk gains nothing.
        await connection.execute(text("SET LOCAL synchronous_commit = off"))
        rows = (await connection.execute(_TAKE, {"most": most})).all()
        if rows:
            await send(sorted(rows, key=lambda row: (row.priority, row.prediction_id)))
    return len(rows)


async def put_unfinished(database: Database, abandoned_seconds: float) -> int:
    """Announce anew whatever is queued, or has been running for so long; return how many. For a queue that is empty."""
    async with database.transaction() as connection:
        put = await connection.execute(_PUT_UNFINISHED, {"lock": _LOCK, "seconds": abandoned_seconds})
    return put.rowcount


async def take_over(database: Database, most: int, lease_seconds: float) -> int:
    """Announce what PgQueuer's table holds, put there by replicas that are or were set otherwise; return how many."""
    async with database.transaction() as connection:
        taken = await connection.execute(_TAKE_OVER, {"most": most, "lease_seconds": lease_seconds})
    return taken.rowcount
