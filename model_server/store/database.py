"""Connections to PostgreSQL, and its failures in our words."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
from cachetools import TTLCache
from psycopg import AsyncConnection as DriverConnection
from psycopg.abc import PQGen
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.types.array import ListBinaryDumper
from psycopg.types.string import BytesBinaryDumper
from psycopg.waiting import Ready, Wait
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from model_server.config import ENV_PREFIX, DatabaseSettings
from model_server.errors import DatabaseUnavailable, SettingsError, shown
from model_server.store.failures import DRIVER_ERRORS, described, in_our_words, is_stale_session

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
MADE_AT = "model_server.made_at"
"""What the pool notes of a connection: when it was made, by the monotonic clock."""
RENEWAL_SECONDS = 1
"""All connections are made anew at most so often: while the server itself is read-only, each new one is too."""
LOG_SECONDS = 1
"""The same state of the database is logged at most so often."""


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
    """A pool of connections; each ``transaction`` is committed whole or not at all.

    What fails is raised as a DatabaseError.
    """

    def __init__(self, url: URL, connections: int) -> None:
        self.url = url
        self._renewed_at = float("-inf")
        self._told: TTLCache[str, bool] = TTLCache(100, LOG_SECONDS)
        self._engine = create_async_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            connect_args=SOCKET_OPTIONS,
            hide_parameters=True,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
        )
        event.listen(self._engine.sync_engine, "connect", self._connected)
        event.listen(self._engine.sync_engine, "checkout", self._taken)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Begin, and commit at the end."""
        with self._failures_in_our_words():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[DriverConnection[Any]]:
        """Send a transaction's statements and its commit together, in one journey; rows can be read after its end."""
        with self._failures_in_our_words():
            async with self._engine.connect() as connection:
                driver = await driver_of(connection)
                async with driver.pipeline():
                    yield driver
                    await driver.wait(_flush(driver))
                    await driver.commit()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[DriverConnection[Any]]:
        """Open a connection of its own, in autocommit, for notifications."""
        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with self._failures_in_our_words():
            async with await DriverConnection.connect(dsn, autocommit=True, **SOCKET_OPTIONS) as connection:
                yield connection

    async def require_writable(self) -> None:
        """Raise DatabaseUnavailable unless the database answers and takes changes."""
        async with self.transaction() as connection:
            if (await connection.execute(text("SHOW transaction_read_only"))).scalar_one() == "on":
                raise ReadOnlySqlTransaction  # what a change would be answered with

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    def _connected(self, connection: Any, record: Any) -> None:
        record.info[MADE_AT] = time.monotonic()
        _send_bytes_as_they_are(connection)

    def _taken(self, _connection: Any, record: Any, _proxy: Any) -> None:
        """Have the pool make a connection anew that is older than the last that turned out to be of no use."""
        if record.info[MADE_AT] < self._renewed_at:
            raise DisconnectionError

    @contextmanager
    def _failures_in_our_words(self) -> Iterator[None]:
        try:
            yield
        except DRIVER_ERRORS as error:
            failure, now = in_our_words(error), time.monotonic()
            if is_stale_session(error) and now - self._renewed_at > RENEWAL_SECONDS:
                self._renewed_at = now
            if isinstance(failure, DatabaseUnavailable):
                self._tell(described(error))
            raise failure from None

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told[what] = True
            logger.warning("database unavailable: %s", what)


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


def _send_bytes_as_they_are(connection: Any) -> None:
    """Send images as they are; psycopg's own choice is text of twice the size, made and parsed byte by byte."""
    adapters = connection.driver_connection.adapters
    adapters.register_dumper(bytes, BytesBinaryDumper)
    adapters.register_dumper(list, ListBinaryDumper)
