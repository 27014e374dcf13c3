"""A PostgreSQL that fails on demand, by its own words: any SQLSTATE, with what it was given in message and detail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from queue_server import rows

READ = ("predictions", "users", "feedback", "model_labels")
WRITTEN = (*READ, "images", "api_keys", "callbacks", "usage", "api_calls", "quotas", "signing_keys")

INSTALL = """
CREATE TABLE faults (name text PRIMARY KEY, state text NOT NULL);
CREATE FUNCTION fault(relation text, content text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE wanted text := (SELECT state FROM faults WHERE name IN (relation, '*') LIMIT 1);
BEGIN
  IF wanted IS NOT NULL THEN
    RAISE EXCEPTION 'what was given: %', content USING ERRCODE = wanted, DETAIL = content, HINT = content;
  END IF;
  RETURN true;
END $$;
CREATE FUNCTION fail_to_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM fault(TG_ARGV[0], CASE TG_OP WHEN 'DELETE' THEN OLD::text ELSE NEW::text END);
  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
"""


def install(database_url: str) -> None:
    """Make every table able to fail; until then and afterwards it is as it was."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(INSTALL.encode())
        for table in WRITTEN:
            connection.execute(
                f"CREATE TRIGGER fault BEFORE INSERT OR UPDATE OR DELETE ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION fail_to_write('{table}')".encode()
            )
        # Also where there is nothing to do yet.
        for table in ("callbacks", "pgqueuer"):
            connection.execute(
                f"CREATE TRIGGER fault_at_once BEFORE UPDATE ON {table} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION fail_to_write('{table}')".encode()
            )
        for table in READ:
            connection.execute(f"ALTER TABLE {table} RENAME TO {table}_kept".encode())
            view = f"CREATE VIEW {table} AS SELECT * FROM {table}_kept WHERE (SELECT fault('{table}', ''))"
            connection.execute(view.encode())


@contextlib.contextmanager
def failing(database_url: str, state: str, table: str = "*") -> Iterator[None]:
    """Answer whatever reads or writes a table with an SQLSTATE."""
    rows(database_url, "INSERT INTO faults VALUES (%s, %s)", table, state)
    try:
        yield
    finally:
        rows(database_url, "DELETE FROM faults WHERE name = %s", table)


def end_sessions(database_url: str, but: int = 0) -> None:
    """End every other session of the database."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid NOT IN (pg_backend_pid(), %s)"
    rows(database_url, f"SELECT pg_terminate_backend(pid) {others}", but)
