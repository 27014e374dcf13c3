"""A model tried through the door, by which the callers come, before it is said that it serves."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from urllib.parse import quote

from model_server.errors import Conflict
from model_server.queue_proxy.split import place_of
from model_server.schema import MODEL_VERSION_HEADER
from model_server.store.identifiers import PLACES
from model_server.up import asking

PATIENCE_SECONDS = 20
"""Above the time in which a door that has just died is there again."""
LOOK_SECONDS = 0.1
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""One pixel, as PNG."""


@dataclass(frozen=True, slots=True)
class Door:
    """The queue-proxy at ``url``; ``is_open``: it makes predictions for somebody unknown."""

    url: str
    is_open: bool

    async def try_out(self, model: str, version: str | None, above: int) -> None:
        """Ask as a caller does whose place is at or above ``above``, until this version answers.

        That is a prediction, or, where those need a token or are used up, the model's metadata, which come the same way
        and need none: that it predicts, the golden images have shown. Raises Conflict with the reason if it stays away.
        """
        caller = {"Idempotency-Key": _caller(above)}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (obstacle := await asyncio.to_thread(self._obstacle, model, version, caller)) is not None:
            if time.monotonic() > deadline:
                raise Conflict(f"{model} {version or ''} is taken back: asked through {self.url}, {obstacle}.")
            await asyncio.sleep(LOOK_SECONDS)

    def _obstacle(self, model: str, version: str | None, caller: dict[str, str]) -> str | None:
        try:
            reply = self._ask(quote(model, safe=""), caller)
        except (OSError, HTTPException) as error:
            return f"there is no answer: {error or type(error).__name__}"
        if reply.status != HTTPStatus.OK:
            return f"the answer has the status {reply.status}"
        answered = reply.headers.get(MODEL_VERSION_HEADER)
        return None if answered == version else f"version {answered} answers"

    def _ask(self, model: str, caller: dict[str, str]) -> asking.Reply:
        if self.is_open:
            headers = {**caller, "Content-Type": "image/png", "Cache-Control": "no-cache"}
            reply = asking.post(f"{self.url}/v1/models/{model}:predict", PICTURE, headers)
            if reply.status != HTTPStatus.TOO_MANY_REQUESTS:
                return reply
        return asking.get(f"{self.url}/v2/models/{model}", caller)


def _caller(above: int) -> str:
    """Return an idempotency key, which a caller without a name has a place by, whose place is not below ``above``."""
    names = (f"rollout-{number}" for number in itertools.count())
    return next(name for name in names if place_of(name) >= above)


def first_place(per_cent: int) -> int:
    """Return the first place of one who has the last ``per_cent`` of the callers."""
    return PLACES * (100 - per_cent) // 100
