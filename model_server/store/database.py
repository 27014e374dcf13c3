"""Connections to PostgreSQL, and its failures in our words."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
from psycopg import AsyncConnection as DriverConnection
from psycopg import InterfaceError as DriverInterfaceError
from psycopg import OperationalError
from psycopg.abc import PQGen
from psycopg.errors import DeadlockDetected, UndefinedTable
from psycopg.types.array import ListBinaryDumper
from psycopg.types.string import BytesBinaryDumper
from psycopg.waiting import Ready, Wait
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, ProgrammingError
from sqlalchemy.exc import OperationalError as SQLOperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from model_server.config import ENV_PREFIX, DatabaseSettings
from model_server.errors import DatabaseUnavailable, SettingsError, shown

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5
POOL_SECONDS = 10
"""A request that waits longer for a connection is told to come back later."""
VANISHED_SECONDS = 30
"""After so long without a sign of life a connection is given up: a host that vanishes closes nothing."""
SOCKET_OPTIONS: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": VANISHED_SECONDS * 1000,
}
"""https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS"""
SHUTTING_DOWN = "57P"
"""SQLSTATE class of a server that is starting or stopping; the connection is lost with it."""


def url_of(settings: DatabaseSettings) -> URL:
    """Return the database's URL with our driver; raises SettingsError."""
    name = f"{ENV_PREFIX}DATABASE_URL"
    if settings.database_url is None:
        raise SettingsError(f"{name} is not set: postgresql://user:password@host:5432/name.")
    try:
        url = make_url(settings.database_url.get_secret_value())
    except ArgumentError:
        raise SettingsError(f"{name} is not a URL such as postgresql://user:password@host:5432/name.") from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise SettingsError(f"{name} names {shown(url.get_backend_name())}; only postgresql:// is supported.")
    return url.set(drivername="postgresql+psycopg")


class Database:
    """A pool of connections; each ``transaction`` is committed whole or not at all."""

    def __init__(self, url: URL, connections: int) -> None:
        self.url = url
        self._engine = create_async_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            connect_args=SOCKET_OPTIONS,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
        )
        event.listen(self._engine.sync_engine, "connect", _send_bytes_as_they_are)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Begin, and commit at the end; raises DatabaseUnavailable where PostgreSQL does not answer."""
        with _failures_in_our_words():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[DriverConnection[Any]]:
        """Send a transaction's statements and its commit together, in one journey; rows can be read after its end."""
        with _failures_in_our_words():
            async with self._engine.connect() as connection:
                driver = await driver_of(connection)
                async with driver.pipeline():
                    yield driver
                    await driver.wait(_flush(driver))
                    await driver.commit()

    async def listen(self) -> DriverConnection[Any]:
        """Return a connection of its own, in autocommit, for notifications; raises psycopg.OperationalError."""
        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return await DriverConnection.connect(dsn, autocommit=True, **SOCKET_OPTIONS)

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


@contextmanager
def _failures_in_our_words() -> Iterator[None]:
    with_reason = "The database does not answer. Try again later."
    try:
        yield
    except (SQLOperationalError, InterfaceError, PoolTimeout, OperationalError, DriverInterfaceError) as error:
        logger.warning("database unavailable: %s", type(error).__name__)
        raise DatabaseUnavailable(with_reason) from error
    except (ProgrammingError, UndefinedTable) as error:
        if not isinstance(getattr(error, "orig", error), UndefinedTable):
            raise
        raise DatabaseUnavailable("The database has no tables yet; `model-server migrate` makes them.") from error
    except DBAPIError as error:
        if not error.connection_invalidated and not _is_shutting_down(error.orig):
            raise
        raise DatabaseUnavailable(with_reason) from error


def is_deadlock(error: DatabaseUnavailable) -> bool:
    """Whether PostgreSQL ended a transaction so that another can go on; a second attempt is likely to succeed."""
    return isinstance(getattr(error.__cause__, "orig", error.__cause__), DeadlockDetected)


async def driver_of(connection: AsyncConnection) -> DriverConnection[Any]:
    """Return the driver's own connection, in the same transaction: for statements where a microsecond counts."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, DriverConnection)  # noqa: S101 - our engine has one driver
    return driver


def _flush(driver: DriverConnection[Any]) -> PQGen[None]:
    """Hand all that was sent over to the kernel, more than its buffer too.

    In a pipeline psycopg hands over what fits, and then waits for a reply to what the server has not got.
    """
    while driver.pgconn.flush():
        if (yield Wait.RW) & Ready.R:
            driver.pgconn.consume_input()


def _send_bytes_as_they_are(connection: Any, _record: Any) -> None:
    """Send images as they are; psycopg's own choice is text of twice the size, made and parsed byte by byte."""
    adapters = connection.driver_connection.adapters
    adapters.register_dumper(bytes, BytesBinaryDumper)
    adapters.register_dumper(list, ListBinaryDumper)


def _is_shutting_down(error: BaseException | None) -> bool:
    return str(getattr(error, "sqlstate", None) or "").startswith(SHUTTING_DOWN)
