"""Pictures that users judged, with the class that most of them named: what an export is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from model_server.store.database import Database
from model_server.store.images import Images
from model_server.store.models import IMAGES, Record
from model_server.store.report import JUDGED, Scope, begin_snapshot

ROWS_AT_ONCE = 500
IMAGES_AT_ONCE, BYTES_AT_ONCE = 64, 4 << 20

# A tie has no label, and neither has a picture of which all that is known is what it does not show. Windows and no
# joins of steps: how many rows each has is beyond the planner, which then takes nested loops.
_LABELLED = text(f"""
    WITH judged AS (
      SELECT DISTINCT ON (image_sha256, author) * FROM feedback
      WHERE image_sha256 IS NOT NULL AND is_right IS NOT NULL AND {JUDGED}
      ORDER BY image_sha256, author, updated_at DESC
    ), counted AS (
      SELECT *, count(correct_class) OVER (PARTITION BY image_sha256, correct_class) AS named FROM judged
    ), ranked AS (
      SELECT *, max(named) OVER (PARTITION BY image_sha256) AS most FROM counted
    ), decided AS (
      SELECT *, count(*) OVER picture AS judges,
        min(correct_class) FILTER (WHERE named = most) OVER picture AS label,
        max(correct_class) FILTER (WHERE named = most) OVER picture AS other
      FROM ranked WINDOW picture AS (PARTITION BY image_sha256)
    ), newest AS (
      SELECT DISTINCT ON (image_sha256) image_sha256, prediction_id, model, model_version, predicted_class, score,
        judges, CASE WHEN label = other THEN label END AS label,
        CASE WHEN label = other THEN most ELSE 0 END AS votes
      FROM decided ORDER BY image_sha256, updated_at DESC, id
    )
    SELECT newest.*, images.media_type, coalesce(images.size, octet_length(images.content)) AS bytes
    FROM newest JOIN images ON images.sha256 = newest.image_sha256
    WHERE newest.label IS NOT NULL OR NOT CAST(:labelled AS boolean)
    ORDER BY image_sha256
""")  # noqa: S608 - our own conditions


class LabelledPictures:
    """The pictures of one moment, in one order however often they are read, a part at a time."""

    def __init__(self, connection: AsyncConnection, images: Images, scope: Scope, *, labelled: bool) -> None:
        self._connection = connection
        self._images = images
        self._values = {**scope.values(), "labelled": labelled}

    async def rows(self) -> AsyncGenerator[Record]:
        """Yield what is known of each picture, without its content."""
        options = {"yield_per": ROWS_AT_ONCE}
        async with self._connection.stream(_LABELLED, self._values, execution_options=options) as rows:
            async for row in rows:
                yield row

    async def with_content(self) -> AsyncGenerator[tuple[Record, bytes]]:
        """Yield each picture with its content; a few megabytes of them are in memory at once. Raises Unavailable."""
        part: list[Record] = []
        size = 0
        async with aclosing(self.rows()) as rows:
            async for row in rows:
                if part and (len(part) == IMAGES_AT_ONCE or size + row.bytes > BYTES_AT_ONCE):
                    for pair in await self._fetch(part):
                        yield pair
                    part, size = [], 0
                part.append(row)
                size += row.bytes
        for pair in await self._fetch(part):
            yield pair

    async def _fetch(self, part: list[Record]) -> list[tuple[Record, bytes]]:
        wanted = [row.image_sha256 for row in part]
        statement = select(IMAGES.c.sha256, IMAGES.c.content).where(IMAGES.c.sha256.in_(wanted))
        found = (await self._connection.execute(statement)).all()
        contents = await asyncio.gather(*map(self._images.content, found))
        by_hash = {row.sha256: content for row, content in zip(found, contents, strict=True)}
        return [(row, by_hash[row.image_sha256]) for row in part]


@asynccontextmanager
async def labelled_pictures(
    database: Database, images: Images, scope: Scope, seconds: float, *, labelled: bool
) -> AsyncIterator[LabelledPictures]:
    """Give the judged pictures, those with a label alone where ``labelled``, as they are now for ``seconds``."""
    async with database.transaction() as connection:
        await begin_snapshot(connection, seconds)
        yield LabelledPictures(connection, images, scope, labelled=labelled)
