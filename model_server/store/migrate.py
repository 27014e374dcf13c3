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
from sqlalchemy.exc import OperationalError

from model_server.errors import DatabaseUnavailable

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 7_305_809_154_021
"""Advisory lock that one migration holds; any constant, the same in every version."""


def migrate(url: URL) -> str:
    """Apply what is missing and return the revision; of many at once, one works and the others wait.

    Tables of a newer version stay as they are: older ones read them, and a deployment is rolled back to those.

    Raises DatabaseUnavailable.
    """
    engine = create_engine(url)
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
    except OperationalError as error:
        raise DatabaseUnavailable(f"The database does not answer: {_reason(error)}.") from None
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


def _reason(error: OperationalError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else "no reason given"
