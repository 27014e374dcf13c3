"""A model tried on recent images before anybody depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from aiohttp import ClientError, ClientSession, ClientTimeout

from model_server.queue_proxy.intake import v1_body
from model_server.queue_proxy.predictor_reply import predictions_of
from model_server.store import reads
from model_server.store.database import Database
from model_server.store.images import Images
from model_server.store.recent import Judged

PARALLEL = 2
"""The callers' own requests need the cores more."""
SECONDS = 60


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of ``compared`` images, ``agreed`` keep their best class."""

    agreed: int
    compared: int

    @property
    def per_cent(self) -> float:
        """0 to 100; 100 where nothing could be compared."""
        return 100 * self.agreed / self.compared if self.compared else 100.0

    def __str__(self) -> str:
        """Return it as a sentence."""
        if not self.compared:
            return "No recent image of the queue is there to compare by."
        return f"{self.agreed} of {self.compared} recent images keep their class ({self.per_cent:.1f} %)."


async def compare(database: Database, images: Images, url: str, model: str, sample: Sequence[Judged]) -> Agreement:
    """Ask the predictor at ``url`` about images that another version of ``model`` has classified.

    One that it refuses, or that takes it a minute, does not agree. Raises Unavailable where a store does not answer.
    """
    turns = asyncio.Semaphore(PARALLEL)
    async with ClientSession(f"{url}/", timeout=ClientTimeout(total=SECONDS)) as session:

        async def agrees(one: Judged) -> bool | None:
            async with turns:
                row = await reads.image(database, one.sha256)
                if row is None:
                    return None  # its retention has ended meanwhile
                body, media_type = v1_body(await images.content(row), row.media_type, one.parameters)
                return await _label(session, model, body, media_type) == one.label

        outcomes: Sequence[bool | None] = await asyncio.gather(*(agrees(one) for one in sample))
    compared = [outcome for outcome in outcomes if outcome is not None]
    return Agreement(sum(compared), len(compared))


async def _label(session: ClientSession, model: str, body: bytes, media_type: str) -> str | None:
    path = f"v1/models/{quote(model, safe='')}:predict"
    try:
        async with session.post(path, data=body, headers={"Content-Type": media_type}) as response:
            predictions = predictions_of(await response.read())
    except (ClientError, TimeoutError):
        return None
    best = predictions[0] if predictions else None
    return best.get("label") if isinstance(best, dict) else None
