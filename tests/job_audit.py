"""A trigger that notes each end of a prediction: only with it can a second write to an ended one be seen."""

from __future__ import annotations

import psycopg

NOTE_ENDS = """
CREATE TABLE ends (id uuid, before text, after text);
CREATE FUNCTION note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO ends VALUES (NEW.id, OLD.status, NEW.status); RETURN NEW; END $$;
CREATE TRIGGER note_end AFTER UPDATE ON predictions FOR EACH ROW
  WHEN (NEW.finished_at IS NOT NULL) EXECUTE FUNCTION note_end()
"""


def count_ends(database_url: str) -> None:
    """Count, from now on, each time that a prediction ends, and each write to one that has ended."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(NOTE_ENDS.encode())
