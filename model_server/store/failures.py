"""PostgreSQL's failures in our words: whose fault each SQLSTATE is, in one table.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from pgqueuer.domain.errors import PgqException
from psycopg import DataError, Error, InterfaceError, OperationalError
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from model_server.errors import ChangedMeanwhile, DatabaseError, DatabaseRefused, DatabaseUnavailable, UnstorableValue

DRIVER_ERRORS = (SQLAlchemyError, PgqException, Error, UnicodeEncodeError)
"""All that SQLAlchemy, PgQueuer and psycopg raise; psycopg encodes text, and half a character has no encoding."""


class Kind(Enum):
    """What a failure means to whoever asked; the value is what they read."""

    AWAY = "The database does not answer. Try again later."
    READ_ONLY = "The database takes no changes for now. Try again later."
    NO_TABLES = "The database lacks tables of this version; `model-server migrate` makes them."
    VALUE = "The request holds a value that cannot be stored."
    CONFLICT = "What the request refers to has changed meanwhile. Try again."
    OURS = "The database refused what the server asked of it; the server's log has the reason."


KINDS: Mapping[str, Kind] = {
    "08": Kind.AWAY,  # the connection broke
    "0A000": Kind.AWAY,  # a prepared statement's result has changed, by a migration: a new connection knows it
    "22": Kind.VALUE,  # a number out of range, text of another encoding: sent by a caller, and not found before
    "22004": Kind.OURS,  # a NULL where none may be, which no caller writes
    "22012": Kind.OURS,  # a division by zero
    "2200H": Kind.OURS,  # a sequence is at its end
    "23": Kind.OURS,  # a rule of the tables that we should keep
    "23503": Kind.CONFLICT,  # what is referred to was removed in the same moment
    "23505": Kind.CONFLICT,  # somebody else was first
    "23P01": Kind.CONFLICT,
    "25006": Kind.READ_ONLY,  # a standby, a failover, a provider that guards a full disk
    "25P02": Kind.AWAY,  # what follows a failure that a library has kept to itself
    "25P03": Kind.AWAY,  # we were too slow, and the transaction was ended
    "25P04": Kind.AWAY,
    "26000": Kind.AWAY,  # a pooler gave us another server's session, without our prepared statement
    "28": Kind.AWAY,  # a password is being changed
    "3D000": Kind.AWAY,  # the database is being restored
    "3F000": Kind.NO_TABLES,
    "40": Kind.AWAY,  # a deadlock, or a serialization: the same again may succeed
    "42": Kind.OURS,  # a statement that is wrong
    "42501": Kind.AWAY,  # a privilege is missing: the operator's to give, and nothing to give a job up for
    "42P01": Kind.NO_TABLES,
    "42P05": Kind.AWAY,  # as 26000
    "42703": Kind.NO_TABLES,
    "53": Kind.AWAY,  # disk, memory or connections are used up
    "54000": Kind.VALUE,  # larger than an index takes
    "55006": Kind.AWAY,  # in use, as a database that is being copied
    "55P03": Kind.AWAY,  # a lock was not to be had in time
    "57": Kind.AWAY,  # cancelled, timed out, starting, stopping, in recovery
    "58": Kind.AWAY,  # an error of the disk
    "72000": Kind.AWAY,  # the snapshot is too old: a new one is not
    "F0": Kind.AWAY,  # the server's own configuration is being mended
    "XX": Kind.AWAY,  # damaged inside, or a provider's proxy that says so: another replica answers
}
"""By SQLSTATE, else by its first two characters, which are its class; an unknown one is OURS, to be looked at."""

STALE_SESSIONS = ("25006", "57P", "26000", "42P05", "0A000")
"""Beginnings of the SQLSTATEs after which a session is of no use any more, nor is an older one."""
ENDED_FOR_OTHERS = "40"
"""Class of transactions that PostgreSQL ended so that others can go on."""


def sqlstate_of(error: BaseException) -> str | None:
    """Return what PostgreSQL called a failure, None where the failure is on the way to it."""
    found = getattr(_driver_error(error), "sqlstate", None)
    return found if isinstance(found, str) else None


def in_our_words(error: Exception) -> DatabaseError:
    """Return what to raise instead of one of DRIVER_ERRORS, with a note for the log; it repeats nothing of a user's."""
    failure = _failure(kind_of(error), sqlstate_of(error))
    failure.add_note(described(error))
    return failure


def _failure(kind: Kind, sqlstate: str | None) -> DatabaseError:
    match kind:
        case Kind.VALUE:
            return UnstorableValue(kind.value)
        case Kind.CONFLICT:
            return ChangedMeanwhile(kind.value)
        case Kind.OURS:
            return DatabaseRefused(kind.value)
    return DatabaseUnavailable(kind.value, sqlstate)


def kind_of(error: Exception) -> Kind:
    """Return what a failure means."""
    sqlstate, driver = sqlstate_of(error), _driver_error(error)
    if sqlstate is not None:
        return KINDS.get(sqlstate) or KINDS.get(sqlstate[:2]) or Kind.OURS
    if isinstance(driver, OperationalError | InterfaceError | PoolTimeout | PendingRollbackError):
        return Kind.AWAY
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Kind.AWAY
    return Kind.VALUE if isinstance(driver, DataError | UnicodeEncodeError) else Kind.OURS


def is_stale_session(error: Exception) -> bool:
    """Whether the connection, and those made before it, have to be made anew."""
    return (sqlstate_of(error) or "").startswith(STALE_SESSIONS)


def described(error: Exception) -> str:
    """Return what a log may say of a failure: no message, for it may repeat what a user has sent."""
    driver = _driver_error(error)
    diagnosis = driver.diag if isinstance(driver, Error) else None
    parts = {
        "SQLSTATE": sqlstate_of(error),
        "table": diagnosis and diagnosis.table_name,
        "column": diagnosis and diagnosis.column_name,
        "constraint": diagnosis and diagnosis.constraint_name,
        "raised in": diagnosis and diagnosis.source_function,
    }
    return ", ".join([type(driver).__name__, *(f"{name} {value}" for name, value in parts.items() if value)])


def _driver_error(error: BaseException) -> BaseException:
    """Return what the driver said; SQLAlchemy and PgQueuer raise errors of their own for some of it."""
    if isinstance(error, PgqException) and error.__cause__:
        return _driver_error(error.__cause__)
    origin = error.orig if isinstance(error, DBAPIError) else None
    return origin or error
