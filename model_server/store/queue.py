"""PgQueuer inside our own transactions: what is committed with the job is committed with its queue entry."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast
from uuid import UUID

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
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.store.database import driver_of

SETTINGS = DBSettings(durability=Durability.balanced)
"""The queue survives a crash; its log and statistics, which nobody here depends on, need not."""
ENTRYPOINT = QueueEntrypoint("predict")
NO_LIMIT = EntrypointExecutionParameter(concurrency_limit=0)
HIGHEST_URGENCY, LOWEST_URGENCY = 0, 7
"""RFC 9218: the lower, the sooner; PgQueuer takes the higher first."""

_BUILDER = QueryQueueBuilder(SETTINGS)


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


async def _queries(connection: AsyncConnection) -> Queries:
    return Queries(cast(Driver, TransactionDriver(await driver_of(connection))), qbq=_BUILDER)


def install_statements() -> list[str]:
    """Return the SQL that makes PgQueuer's tables."""
    environment = QueryBuilderEnvironment(SETTINGS)
    return [environment.build_install_query(), environment.build_optimize_autovacuum_query()]


def uninstall_statements() -> list[str]:
    """Return the SQL that removes them."""
    return [QueryBuilderEnvironment(SETTINGS).build_uninstall_query()]


async def enqueue(connection: AsyncConnection, predictions: list[tuple[UUID, int]]) -> None:
    """Queue predictions, each with its urgency 0..7."""
    await _enqueue(await _queries(connection), predictions)


async def send_entries(driver: DriverConnection[Any], predictions: list[tuple[UUID, int]]) -> None:
    """Queue predictions in a pipeline."""
    await _enqueue(Queries(cast(Driver, PipelineDriver(driver)), qbq=_BUILDER), predictions)


async def _enqueue(queries: Queries, predictions: list[tuple[UUID, int]]) -> None:
    await queries.enqueue(
        [ENTRYPOINT] * len(predictions),
        [prediction.bytes for prediction, _ in predictions],
        [LOWEST_URGENCY - urgency for _, urgency in predictions],
    )


async def dequeue(connection: AsyncConnection, worker: UUID, most: int, lease_seconds: float) -> list[Job]:
    """Take up to ``most`` entries that are due, or whose worker gave no sign of life for the lease."""
    queries = await _queries(connection)
    lease = timedelta(seconds=lease_seconds)
    return await queries.dequeue(most, {ENTRYPOINT: NO_LIMIT}, QueueManagerId(worker), None, lease)


async def remove(connection: AsyncConnection, jobs: list[Job]) -> None:
    """Take entries out of the queue for good."""
    queries = await _queries(connection)
    await queries.log_jobs([(job, "successful", None) for job in jobs])


async def put_back(connection: AsyncConnection, job: Job, delay_seconds: float) -> None:
    """Queue an entry again, due after the delay."""
    queries = await _queries(connection)
    await queries.retry_job(job, timedelta(seconds=delay_seconds), None)


async def extend(connection: AsyncConnection, jobs: list[Job]) -> None:
    """Give a sign of life for entries that are being worked on."""
    queries = await _queries(connection)
    await queries.update_heartbeat([job.id for job in jobs])


def prediction_of(job: Job) -> UUID:
    """Return the prediction that an entry stands for."""
    assert job.payload is not None  # noqa: S101 - what enqueue writes
    return UUID(bytes=job.payload)
