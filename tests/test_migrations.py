"""Migrations, on a real PostgreSQL: up from nothing, and each revision down and up again, whatever the tables hold."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import make_url

from model_server.store.migrate import MIGRATIONS, migrate
from model_server.store.models import Base

REVISIONS = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
A_PREDICTION = """
    INSERT INTO predictions (id, status, model, parameters, priority, deadline, idempotency_key)
    VALUES (gen_random_uuid(), 'queued', 'm', '{}', 3, now(), %s)
"""


@pytest.fixture
def connection(postgres: str) -> Iterator[Connection]:
    """Connect to an empty database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
        engine = create_engine(make_url(postgres).set(drivername="postgresql+psycopg", database=name))
        with engine.connect() as connected:
            yield connected
        engine.dispose()
        server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def go(connection: Connection, direction: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    getattr(command, direction)(config, revision)
    connection.commit()


def schema(connection: Connection) -> list[tuple[object, ...]]:
    """Return every column, index and constraint."""
    query = """
        SELECT 'column', table_name, column_name, data_type, is_nullable, column_default
        FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        ORDER BY 1, 2, 3
    """
    found = [tuple(row) for row in connection.exec_driver_sql(query) if row[1] != "alembic_version"]
    connection.commit()
    return found


def test_tables_are_those_of_the_code(connection: Connection) -> None:
    go(connection, "upgrade", "head")
    differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert [one for one in differences if "pgqueuer" not in str(one)] == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_revision_goes_down_and_up_again(connection: Connection, revision: str) -> None:
    go(connection, "upgrade", revision)
    before = schema(connection)
    connection.exec_driver_sql(A_PREDICTION, ("key",))
    connection.commit()
    go(connection, "downgrade", "-1")
    assert schema(connection) != before
    go(connection, "upgrade", revision)
    assert schema(connection) == before


def test_tables_of_a_newer_version_stay_as_they_are(connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """An older version that is rolled back to would not start otherwise."""
    go(connection, "upgrade", "head")
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    before = schema(connection)
    assert migrate(connection.engine.url) == "9999"
    assert "newer version, revision 9999" in caplog.text
    assert schema(connection) == before


def test_all_the_way_down_leaves_nothing(connection: Connection) -> None:
    go(connection, "upgrade", "head")
    go(connection, "downgrade", "base")
    assert schema(connection) == []
    left = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    assert connection.exec_driver_sql(left).all() == []


def test_one_idempotency_key_of_several_users_survives_the_way_down(connection: Connection) -> None:
    go(connection, "upgrade", "0002")
    for user in (None, uuid.uuid4(), uuid.uuid4()):
        connection.exec_driver_sql(A_PREDICTION, ("key",)) if user is None else connection.exec_driver_sql(
            A_PREDICTION.replace("(id,", "(user_id, id,").replace("VALUES (", "VALUES (%s, "), (user, "key")
        )
    connection.commit()
    go(connection, "downgrade", "0001")
    kept = connection.exec_driver_sql("SELECT count(*), count(idempotency_key) FROM predictions").one()
    assert tuple(kept) == (3, 1)
