"""PgQueuer inside our own transactions: what is committed with the job is committed with its queue entry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.models import Job
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from pgqueuer.ports.driver import Driver
from pgqueuer.ports.repository import EntrypointExecutionParameter
from psycopg import AsyncConnection as DriverConnection
from psycopg import AsyncRawCursor
from psycopg.rows import dict_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.background import Background
from model_server.store.database import Database, driver_of
from model_server.store.queue.interface import LOWEST_URGENCY, Entry

logger = logging.getLogger(__name__)

SETTINGS = DBSettings(durability=Durability.balanced)
"""The queue survives a crash; its log and statistics, which nobody here depends on, need not."""
ENTRYPOINT = QueueEntrypoint("predict")
NO_LIMIT = EntrypointExecutionParameter(concurrency_limit=0)
INSERTED = '"insert"'
"""In the notification of a new entry."""
ADOPT_SECONDS, ADOPTED_AT_ONCE = 60, 10_000

_BUILDER = QueryQueueBuilder(SETTINGS)

# A prediction and its entry come and go in one transaction: none is without but what another queue was told of. Those
# that would be taken first are looked at; the others will be once these are done.
_WITHOUT_ENTRY = text("""
    WITH ours AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(:lock) AS held), unfinished AS (
      (SELECT id, priority FROM predictions WHERE status = 'queued' AND leader IS NULL
       ORDER BY priority, id LIMIT :most)
      UNION ALL
      SELECT id, priority FROM predictions
      WHERE status = 'running' AND started_at < now() - make_interval(secs => :lease_seconds)
    )
    SELECT p.id, p.priority FROM unfinished AS p
    WHERE (SELECT held FROM ours) AND NOT EXISTS (SELECT FROM pgqueuer AS q WHERE q.payload = uuid_send(p.id))
""")
_LOCK = 7_305_809_154_022
"""Advisory lock of who looks for those; any constant, the same in every version."""


class TransactionDriver:
    """PgQueuer's statements, ``$1`` style, on a connection whose transaction is somebody else's.

    Of PgQueuer's Driver it is the part that runs statements; listening is done elsewhere.
    """

    def __init__(self, connection: DriverConnection[Any]) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Return the rows as dictionaries."""
        cursor = AsyncRawCursor(self._connection, row_factory=dict_row)
        await cursor.execute(query.encode(), args or None)
        return await cursor.fetchall()

    async def execute(self, query: str, *args: object) -> str:
        """Return the status message."""
        cursor = AsyncRawCursor(self._connection)
        await cursor.execute(query.encode(), args or None)
        return cursor.statusmessage or ""


class PipelineDriver(TransactionDriver):
    """Sends statements and does not wait: in a pipeline that would end the common journey."""

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Send; what is returned, nobody asks for."""
        await self.execute(query, *args)
        return []


def install_statements() -> list[str]:
    """Return the SQL that makes PgQueuer's tables."""
    environment = QueryBuilderEnvironment(SETTINGS)
    return [environment.build_install_query(), environment.build_optimize_autovacuum_query()]


def uninstall_statements() -> list[str]:
    """Return the SQL that removes them."""
    return [QueryBuilderEnvironment(SETTINGS).build_uninstall_query()]


class PostgresTransaction:
    """Entries are rows of the same database: taking and removing them is part of the transaction."""

    def __init__(self, connection: AsyncConnection, worker: UUID, lease_seconds: float) -> None:
        self.connection = connection
        self._worker = worker
        self._lease = timedelta(seconds=lease_seconds)

    async def take(self, most: int) -> list[Entry]:
        """Take what is due, or what a worker took that gave no sign of life for the lease."""
        # A claim that a crash of PostgreSQL undoes is claimed again: waiting for the disk gains nothing.
        await self.connection.execute(text("SET LOCAL synchronous_commit = off"))
        queries = await _queries(self.connection)
        jobs = await queries.dequeue(most, {ENTRYPOINT: NO_LIMIT}, QueueManagerId(self._worker), None, self._lease)
        return [Entry(_prediction_of(job), job) for job in jobs]

    async def remove(self, entries: Sequence[Entry]) -> None:
        """Delete the rows."""
        queries = await _queries(self.connection)
        await queries.log_jobs([(entry.handle, "successful", None) for entry in entries])

    async def leave(self, entries: Sequence[Entry]) -> None:
        """Leave the row to the other worker: it is the same."""

    async def put_back(self, entry: Entry, delay_seconds: float) -> None:
        """Let the row be due later."""
        queries = await _queries(self.connection)
        await queries.retry_job(entry.handle, timedelta(seconds=delay_seconds), None)


class PostgresQueue:
    """PgQueuer's table. A worker that gives no sign of life for ``lease_seconds`` loses what it took."""

    channel: str = SETTINGS.channel

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._worker = uuid4()
        self.work = asyncio.Event()

    async def announce(self, driver: DriverConnection[Any], predictions: Sequence[tuple[UUID, int]]) -> None:
        """Insert rows."""
        await Queries(cast(Driver, PipelineDriver(driver)), qbq=_BUILDER).enqueue(
            [ENTRYPOINT] * len(predictions),
            [prediction.bytes for prediction, _ in predictions],
            [LOWEST_URGENCY - urgency for _, urgency in predictions],
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """Begin, and commit at the end."""
        async with self._database.transaction() as connection:
            yield PostgresTransaction(connection, self._worker, self._lease_seconds)

    async def extend(self, entries: Sequence[Entry]) -> None:
        """Touch the rows of what is being worked on."""
        async with self._database.transaction() as connection:
            queries = await _queries(connection)
            await queries.update_heartbeat([entry.handle.id for entry in entries])

    def heard(self, payload: str) -> None:
        """Look where an entry is new."""
        if INSERTED in payload:
            self.work.set()

    def look(self) -> None:
        """Wake whoever takes."""
        self.work.set()

    async def run(self, background: Background) -> None:
        """Take over what another queue was told of, by replicas that are or were set otherwise."""
        await background.duty("queue: take over").repeat(self._adopt_all, ADOPT_SECONDS)

    async def _adopt_all(self) -> None:
        while await self._adopt() >= ADOPTED_AT_ONCE:
            continue

    async def _adopt(self) -> int:
        values = {"lock": _LOCK, "lease_seconds": self._lease_seconds, "most": ADOPTED_AT_ONCE}
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_WITHOUT_ENTRY, values)).all()
            if rows:
                await self.announce(await driver_of(connection), [(row.id, row.priority) for row in rows])
                logger.info("predictions taken over from another queue", extra={"count": len(rows)})
        return len(rows)

    async def release(self) -> None:
        """Do nothing: nothing is taken ahead."""


async def _queries(connection: AsyncConnection) -> Queries:
    return Queries(cast(Driver, TransactionDriver(await driver_of(connection))), qbq=_BUILDER)


def _prediction_of(job: Job) -> UUID:
    assert job.payload is not None  # noqa: S101 - what announce writes
    return UUID(bytes=job.payload)
