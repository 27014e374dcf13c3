"""Bring a database's tables up to this version."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from model_server.store.failures import DRIVER_ERRORS, in_our_words, sqlstate_of

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 7_305_809_154_021
"""Advisory lock that one migration holds; any constant, the same in every version."""


def migrate(url: URL) -> str:
    """Apply what is missing and return the revision; of many at once, one works and the others wait.

    Tables of a newer version stay as they are: older ones read them, and a deployment is rolled back to those.

    Raises DatabaseUnavailable or DatabaseRefused, with notes of what it was.
    """
    engine = create_engine(url, hide_parameters=True)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            connection.commit()
            try:
                return _upgrade(connection)
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
                connection.commit()
    except DRIVER_ERRORS as error:
        failure = in_our_words(error)
        if isinstance(error, DBAPIError) and sqlstate_of(error) is None:
            failure.add_note(str(error.orig).strip())  # why nobody answers, as libpq says it
        raise failure from None
    finally:
        engine.dispose()


def _upgrade(connection: Connection) -> str:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    stored = MigrationContext.configure(connection).get_current_revision()
    connection.commit()
    if stored and stored not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        logger.warning("The tables are of a newer version, revision %s, and stay as they are.", stored)
        return stored
    command.upgrade(config, "head")
    connection.commit()
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
