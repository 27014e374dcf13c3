"""The figures of the feedback report, counted by PostgreSQL in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.store.database import Database
from model_server.store.models import Record

WORK_MEMORY = "32MB"
"""Enough to group a hundred thousand entries without files."""
SECONDS = 30
CANDIDATES_A_MISTAKE = 4
"""One picture may be judged wrong several times and is shown once."""

_PREDICTED = """
    (CAST(:model AS text) IS NULL OR model = :model)
    AND (CAST(:version AS text) IS NULL OR coalesce(model_version, '') = :version)
"""
JUDGED = f"{_PREDICTED} AND predicted_at >= :begin AND predicted_at < :end"

_COUNTS = text(f"""
    SELECT model, version, day, sum(predictions)::bigint AS predictions FROM (
      SELECT model, coalesce(model_version, '') AS version, (finished_at AT TIME ZONE 'UTC')::date AS day,
        count(*) AS predictions
      FROM predictions
      WHERE finished_at IS NOT NULL AND status = 'succeeded' AND finished_at >= :begin AND finished_at < :end
        AND {_PREDICTED}
      GROUP BY 1, 2, 3
      UNION ALL
      SELECT model, model_version, day, predictions FROM prediction_counts
      WHERE day >= CAST(:begin AS date) AND day < CAST(:end AS date) AND {_PREDICTED}
    ) AS counted
    GROUP BY 1, 2, 3
""")  # noqa: S608 - our own conditions
# One verdict a prediction, that of most of its judges: their words on one picture are no independent trials.
_VERDICTS = text(f"""
    WITH verdicts AS (
      SELECT min(model) AS model, min(model_version) AS version, min(predicted_class) AS predicted,
        (min(predicted_at) AT TIME ZONE 'UTC')::date AS day,
        sum(CASE WHEN is_right THEN 1 ELSE -1 END) AS balance,
        mode() WITHIN GROUP (ORDER BY correct_class) FILTER (WHERE NOT is_right) AS instead
      FROM feedback
      WHERE is_right IS NOT NULL AND prediction_id IS NOT NULL AND {JUDGED}
      GROUP BY prediction_id
    ), named AS (
      SELECT model, version, day, predicted, balance, CASE WHEN balance > 0 THEN predicted ELSE instead END AS correct
      FROM verdicts
    )
    SELECT model, version, day, predicted, correct, grouping(day) = 0 AS is_day,
      count(*) FILTER (WHERE balance > 0) AS right, count(*) FILTER (WHERE balance < 0) AS wrong,
      count(*) FILTER (WHERE balance = 0) AS disputed
    FROM named
    GROUP BY GROUPING SETS ((model, version, day), (model, version, predicted, correct))
""")  # noqa: S608
_UNLINKED = text(f"""
    SELECT model, model_version AS version, count(*) AS judged, count(*) FILTER (WHERE is_right) AS right
    FROM feedback WHERE prediction_id IS NULL AND is_right IS NOT NULL AND {JUDGED} GROUP BY 1, 2
""")  # noqa: S608
_AGREEMENT = text(f"""
    WITH judged AS (
      SELECT coalesce(image_sha256, uuid_send(prediction_id)) AS picture, author, correct_class, updated_at
      FROM feedback WHERE correct_class IS NOT NULL AND prediction_id IS NOT NULL AND {JUDGED}
    ), several AS (
      SELECT *, count(*) OVER (PARTITION BY picture) AS words FROM judged
    ), votes AS (
      SELECT DISTINCT ON (picture, author) picture, correct_class FROM several WHERE words > 1
      ORDER BY picture, author, updated_at DESC
    ), counted AS (
      SELECT picture, correct_class, count(*) AS n, sum(count(*)) OVER (PARTITION BY picture) AS judges
      FROM votes GROUP BY 1, 2
    ), pictures AS (
      SELECT sum(n)::bigint AS n, sum(n * n)::bigint AS squares FROM counted WHERE judges > 1 GROUP BY picture
    ), classes AS (
      SELECT sum(n)::bigint AS n FROM counted WHERE judges > 1 GROUP BY correct_class
    )
    SELECT count(*) AS pictures, count(*) FILTER (WHERE squares = n * n) AS unanimous,
      coalesce(sum(n), 0)::bigint AS votes, coalesce(sum((n * n - squares)::float / (n - 1)), 0) AS disagreement,
      (SELECT coalesce(sum(n * n), 0)::bigint FROM classes) AS squares
    FROM pictures
""")  # noqa: S608
_MISTAKES = text(f"""
    SELECT * FROM feedback AS wrong
    WHERE NOT is_right AND image_sha256 IS NOT NULL AND {JUDGED}
      AND (CAST(:everything AS boolean) OR author = :author OR (CAST(:unowned AS boolean) AND NOT is_private))
      AND NOT EXISTS (
        SELECT FROM feedback AS other WHERE other.prediction_id = wrong.prediction_id AND other.is_right)
    ORDER BY score DESC, id LIMIT :most
""")  # noqa: S608


@dataclass(frozen=True, slots=True)
class Scope:
    """What a report is about; None: all. ``first`` and ``last`` are days in UTC, both included."""

    model: str | None = None
    version: str | None = None
    first: date | None = None
    last: date | None = None

    def values(self) -> dict[str, Any]:
        """Return the parameters that the conditions name."""
        begin = self.first or date(1970, 1, 1)
        end = (self.last or date(9998, 12, 31)) + timedelta(days=1)
        midnight = time(tzinfo=UTC)
        return {
            "model": self.model,
            "version": self.version,
            "begin": datetime.combine(begin, midnight),
            "end": datetime.combine(end, midnight),
        }


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whose eyes the pictures are for: everything, or the author's own and perhaps what is nobody's."""

    author: UUID
    sees_everything: bool = False
    sees_unowned: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """What was counted; each list has the rows of one query."""

    counts: list[Record]
    verdicts: list[Record]
    unlinked: list[Record]
    agreement: Record
    mistakes: list[Record]


async def figures(database: Database, scope: Scope, viewer: Viewer, mistakes: int) -> Figures:
    """Count everything; ``mistakes`` is how many of them are wanted at most."""
    values = scope.values()
    sight = {
        "everything": viewer.sees_everything,
        "unowned": viewer.sees_unowned,
        "author": viewer.author,
        "most": mistakes * CANDIDATES_A_MISTAKE,
    }
    async with database.transaction() as connection:
        await begin_snapshot(connection, SECONDS)
        await connection.execute(text(f"SET LOCAL work_mem = '{WORK_MEMORY}'"))
        wrong = (await connection.execute(_MISTAKES, {**values, **sight})).all()
        return Figures(
            counts=list((await connection.execute(_COUNTS, values)).all()),
            verdicts=list((await connection.execute(_VERDICTS, values)).all()),
            unlinked=list((await connection.execute(_UNLINKED, values)).all()),
            agreement=(await connection.execute(_AGREEMENT, values)).one(),
            mistakes=_one_a_picture(list(wrong), mistakes),
        )


def statements(scope: Scope) -> list[tuple[str, str]]:
    """Return the name and the SQL, with its values written in, of each query that counts."""
    queries = {"predictions": _COUNTS, "verdicts": _VERDICTS, "unlinked": _UNLINKED, "agreement": _AGREEMENT}
    values, dialect = scope.values(), postgresql.dialect()  # type: ignore[no-untyped-call]
    return [
        (name, str(query.bindparams(**values).compile(dialect=dialect, compile_kwargs={"literal_binds": True})))
        for name, query in queries.items()
    ]


async def begin_snapshot(connection: AsyncConnection, seconds: float) -> None:
    """Let every query of this transaction see the same state, and none take longer than ``seconds``."""
    await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    await connection.execute(text(f"SET LOCAL statement_timeout = {int(seconds * 1000)}"))


def _one_a_picture(rows: list[Record], most: int) -> list[Record]:
    first: dict[bytes, Record] = {}
    for row in rows:
        first.setdefault(row.image_sha256, row)
    return list(first.values())[:most]
