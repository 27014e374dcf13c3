"""What queued predictions are about, from the store to the attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_server.store import runs
from model_server.store.database import Database
from model_server.store.images import Images
from model_server.store.runs import Claimed

LARGE_AT_ONCE = 3


class Contents:
    """Images and documents to be classified; of those that are large, a few are in memory at once."""

    def __init__(self, database: Database, images: Images) -> None:
        self._database = database
        self._images = images
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def of(self, claimed: Claimed) -> AsyncIterator[bytes]:
        """Give the content for as long as it is used; raises Unavailable."""
        if claimed.content is not None:
            yield claimed.content
            return
        async with self._large:
            yield await self._read(claimed)

    async def _read(self, claimed: Claimed) -> bytes:
        if claimed.image_sha256 is not None:
            return await self._images.whole(claimed.image_sha256)
        return await runs.document(self._database, claimed.id)
