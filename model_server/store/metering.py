"""Counts that every replica adds to: calls of each route, and what each user takes a day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.store.database import Database
from model_server.store.models import API_CALLS, USAGE, Record

UNITS: Mapping[str, int] = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
"""Windows that calls are counted in, seconds, each beginning at a multiple of its length since 1970, UTC."""
KEPT_WINDOWS = 3
"""Only the current window is asked for; the one before may still be written to by a clock that is late."""

CallKey = tuple[str, str, int]
"""Route, unit, begin in seconds since 1970."""
UsageKey = tuple[UUID | None, date]

_ADD_CALLS = text("""
    INSERT INTO api_calls (api, unit, begins_at, calls)
    SELECT api, unit, to_timestamp(begins), calls
    FROM unnest(CAST(:api AS text[]), CAST(:unit AS text[]), CAST(:begins AS bigint[]), CAST(:calls AS bigint[]))
      AS new (api, unit, begins, calls)
    ON CONFLICT (api, unit, begins_at) DO UPDATE SET calls = api_calls.calls + excluded.calls
""")
_ADD_USAGE = text("""
    INSERT INTO usage (user_id, day, requests, images, compute_seconds, bytes)
    SELECT * FROM unnest(
      CAST(:user_id AS uuid[]), CAST(:day AS date[]), CAST(:requests AS bigint[]), CAST(:images AS bigint[]),
      CAST(:compute_seconds AS float[]), CAST(:bytes AS bigint[]))
    ON CONFLICT ON CONSTRAINT usage_user_day DO UPDATE SET
      requests = usage.requests + excluded.requests,
      images = usage.images + excluded.images,
      compute_seconds = usage.compute_seconds + excluded.compute_seconds,
      bytes = usage.bytes + excluded.bytes
""")
_FORGET_CALLS = text("DELETE FROM api_calls WHERE unit = :unit AND begins_at < now() - make_interval(secs => :seconds)")


@dataclass(slots=True)
class Usage:
    """What somebody took: requests and images answered, seconds at the predictor, bytes of request bodies."""

    requests: int = 0
    images: int = 0
    compute_seconds: float = 0.0
    bytes: int = 0

    def add(self, other: Usage) -> None:
        """Add another's to it."""
        self.requests += other.requests
        self.images += other.images
        self.compute_seconds += other.compute_seconds
        self.bytes += other.bytes


async def add(database: Database, calls: Mapping[CallKey, int], usage: Mapping[UsageKey, Usage]) -> None:
    """Add counts to those of all replicas, in one transaction; raises DatabaseUnavailable."""
    async with database.transaction() as connection:
        # A second's counts that a crash of PostgreSQL loses are worth no wait for the disk.
        await connection.execute(text("SET LOCAL synchronous_commit = off"))
        if calls:
            await _add_calls(connection, calls)
        if usage:
            await _add_usage(connection, usage)


async def _add_calls(connection: AsyncConnection, calls: Mapping[CallKey, int]) -> None:
    keys = sorted(calls)  # in one order everywhere, so that two transactions never wait for each other
    values = {
        "api": [api for api, _, _ in keys],
        "unit": [unit for _, unit, _ in keys],
        "begins": [begins for _, _, begins in keys],
        "calls": [calls[key] for key in keys],
    }
    await connection.execute(_ADD_CALLS, values)


async def _add_usage(connection: AsyncConnection, usage: Mapping[UsageKey, Usage]) -> None:
    keys = sorted(usage, key=lambda key: (key[0].bytes if key[0] else b"", key[1]))
    values = {
        "user_id": [user for user, _ in keys],
        "day": [day for _, day in keys],
        "requests": [usage[key].requests for key in keys],
        "images": [usage[key].images for key in keys],
        "compute_seconds": [usage[key].compute_seconds for key in keys],
        "bytes": [usage[key].bytes for key in keys],
    }
    await connection.execute(_ADD_USAGE, values)


async def calls_in(database: Database, api: str, unit: str, begins: int) -> int:
    """Return the calls of a route in the window that begins then, all replicas together."""
    columns = API_CALLS.c
    moment = datetime.fromtimestamp(begins, UTC)
    statement = select(columns.calls).where(columns.api == api, columns.unit == unit, columns.begins_at == moment)
    async with database.transaction() as connection:
        return int((await connection.execute(statement)).scalar_one_or_none() or 0)


async def usage_page(  # noqa: PLR0913 - what is asked for, one by one
    database: Database, first: date, last: date, *, whose: UUID | None, everybody: bool, limit: int, offset: int
) -> list[Record]:
    """Return days, newest first, of ``whose``, None: of those unknown; or of everybody."""
    columns = USAGE.c
    statement = select(USAGE).where(columns.day.between(first, last))
    if not everybody:
        statement = statement.where(columns.user_id == whose)  # `IS NULL` for None
    statement = statement.order_by(columns.day.desc(), func.coalesce(columns.user_id, UUID(int=0)))
    async with database.transaction() as connection:
        return list((await connection.execute(statement.limit(limit).offset(offset))).all())


async def sweep(database: Database) -> None:
    """Remove windows of calls that nobody can ask for any more; usage is kept."""
    async with database.transaction() as connection:
        for unit, seconds in UNITS.items():
            await connection.execute(_FORGET_CALLS, {"unit": unit, "seconds": seconds * KEPT_WINDOWS})
