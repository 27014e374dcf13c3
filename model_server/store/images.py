"""Where images are kept: each has a row, and its content is in that row or in an object."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy import text

from model_server.errors import Unavailable
from model_server.store.database import Database
from model_server.store.models import Record
from model_server.store.object_storage import ObjectStorage

# Touching what is there keeps the clean-up from removing row and object until a prediction refers to it.
_ANNOUNCE = text("""
    INSERT INTO images (sha256, media_type, location, size) VALUES (:sha256, :media_type, :location, :size)
    ON CONFLICT (sha256) DO UPDATE SET created_at = now(), location = excluded.location, size = excluded.size
""")
_STORED = text("""
    SELECT sha256, media_type, content IS NULL AS is_outside, coalesce(size, octet_length(content)) AS size
    FROM images WHERE sha256 = :sha256
""")
_PIECE = text("SELECT substring(content FROM :first FOR :length) FROM images WHERE sha256 = :sha256")
_UNUSED = text("""
    SELECT sha256, location FROM images AS i
    WHERE created_at < now() - make_interval(secs => :seconds) AND (:outside OR location IS NULL)
      AND NOT EXISTS (SELECT FROM predictions AS p WHERE p.image_sha256 = i.sha256)
      AND NOT EXISTS (SELECT FROM feedback AS f WHERE f.image_sha256 = i.sha256)
    ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED
""")
_REMOVE = text("DELETE FROM images WHERE sha256 = ANY(CAST(:sha256 AS bytea[]))")


PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image without its content; ``size`` is in bytes."""

    sha256: bytes
    media_type: str
    is_outside: bool
    size: int


class Images:
    """Images in the database, or, where there is a ``storage``, their contents there.

    What was kept in the database before there was one stays readable.
    """

    def __init__(self, database: Database, storage: ObjectStorage | None) -> None:
        self._database = database
        self._storage = storage

    @property
    def are_outside(self) -> bool:
        """Whether contents are put into objects, by ``keep``, and not into the rows."""
        return self._storage is not None

    async def keep(self, sha256: bytes, media_type: str, content: bytes) -> None:
        """Put an image into its object, to be referred to by a prediction within the clean-up's grace.

        The row is there first: the clean-up, which locks it, then removes the object either before it is put or not
        at all. Raises Unavailable.
        """
        assert self._storage is not None  # noqa: S101 - see are_outside
        location = self._storage.location(sha256)
        values = {"sha256": sha256, "media_type": media_type, "location": location, "size": len(content)}
        async with self._database.transaction() as connection:
            await connection.execute(_ANNOUNCE, values)
        await self._storage.put(sha256, content)

    async def content(self, row: Record) -> bytes:
        """Return the content of a row of ``sha256`` and ``content``; raises Unavailable."""
        if row.content is not None:
            return bytes(row.content)
        return await self.outside(row.sha256)

    async def find(self, sha256: bytes | None) -> StoredImage | None:
        """Return an image without its content, None where it is not kept."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(_STORED, {"sha256": sha256})).one_or_none()
        return None if row is None else StoredImage(*row)

    async def pieces(self, image: StoredImage) -> AsyncIterator[bytes]:
        """Yield the content in pieces, of which one is in memory at a time; raises Unavailable."""
        for start in range(0, image.size, PIECE_BYTES):
            yield await self._piece(image, start, min(PIECE_BYTES, image.size - start))

    async def _piece(self, image: StoredImage, start: int, length: int) -> bytes:
        if image.is_outside:
            return await self._outside().get_part(image.sha256, start, length)
        values = {"sha256": image.sha256, "first": start + 1, "length": length}
        async with self._database.transaction() as connection:
            piece = (await connection.execute(_PIECE, values)).scalar_one_or_none()
        if piece is None:
            raise Unavailable("The image was removed while it was read.")
        return bytes(piece)

    async def whole(self, sha256: bytes) -> bytes:
        """Return the content of an image that is kept; raises Unavailable.

        In pieces: the driver holds what it reads at once several times over.
        """
        if (image := await self.find(sha256)) is None:
            raise Unavailable("The image was removed before it was read.")
        return b"".join([piece async for piece in self.pieces(image)])

    async def outside(self, sha256: bytes) -> bytes:
        """Return an image that is in an object; raises Unavailable."""
        return await self._outside().get(sha256)

    def _outside(self) -> ObjectStorage:
        if self._storage is None:
            raise Unavailable("The image is in a store that this server was not told of.")
        return self._storage

    async def sweep(self, grace_seconds: float, most: int) -> int:
        """Remove images that no prediction and no feedback refers to, objects before their rows; return how many.

        Those in a store that this process was not told of stay.
        """
        values = {"seconds": grace_seconds, "most": most, "outside": self.are_outside}
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_UNUSED, values)).all()
            if self._storage is not None:
                await self._storage.remove([row.sha256 for row in rows if row.location is not None])
            await connection.execute(_REMOVE, {"sha256": [row.sha256 for row in rows]})
        return len(rows)
