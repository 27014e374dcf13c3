"""Learning which classes a model version has, while the predictor is awake to say so."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import quote

from pydantic import Field

from model_server.bundle import MOST_LABELS, is_label
from model_server.documents.document import LooseDocument, read
from model_server.errors import ModelServerError
from model_server.http.json_body import parse_reply
from model_server.queue_proxy.model_list import served_models
from model_server.queue_proxy.split import Split
from model_server.queue_proxy.upstream import Upstream
from model_server.store import labels
from model_server.store.database import Database

logger = logging.getLogger(__name__)

FIRST_SECONDS = 0.5
AGAIN_SECONDS = 2
"""Beside a canary, another version may answer: the wanted one is asked for again."""
TRIES = 30
REFRESH_SECONDS = 600
"""A version that was exported anew under its old name may have other classes."""

Version = tuple[Upstream, str, str]
"""Who answered, for which model, with which version."""


class LabelLearner:
    """Keeps in PostgreSQL the labels of what is served at the start, and of each version that answers a prediction."""

    def __init__(self, database: Database, split: Split) -> None:
        self._database = database
        self._split = split
        self._wanted: dict[Version, int] = {}
        self._learned: dict[Version, float] = {}
        self._more = asyncio.Event()
        split.on_answer(self._answered)

    def _answered(self, upstream: Upstream, model: str, version: str) -> None:
        key = upstream, model, version
        if key in self._wanted or time.monotonic() - self._learned.get(key, -REFRESH_SECONDS) < REFRESH_SECONDS:
            return
        self._wanted[key] = TRIES
        self._more.set()

    async def run(self) -> None:
        """Learn until cancelled."""
        await self._introduce()
        while True:
            await self._more.wait()
            self._more.clear()
            while self._wanted:
                for key in list(self._wanted):
                    await self._try(key)
                if self._wanted:
                    await asyncio.sleep(AGAIN_SECONDS)

    async def _introduce(self) -> None:
        """Learn what is served now, so that feedback on the first prediction finds its classes."""
        for _ in range(TRIES):
            if self._wanted:
                return
            try:
                for model in await served_models(self._split):
                    if found := await _ask(self._split, model):
                        await labels.remember(self._database, model, *found)
                return
            except ModelServerError:
                await asyncio.sleep(FIRST_SECONDS)

    async def _try(self, key: Version) -> None:
        upstream, model, _ = key
        try:
            found = await _ask(upstream, model)
            if found is not None:
                version, names = found
                await labels.remember(self._database, model, version, names)
                self._finish((upstream, model, version))
        except ModelServerError as error:
            logger.info("labels not learned yet", extra={"model": model, "reason": str(error)})
        if key in self._wanted:
            self._wanted[key] -= 1
            if self._wanted[key] <= 0:
                # Asked for again after a while, should it answer then.
                self._finish(key)

    def _finish(self, key: Version) -> None:
        self._wanted.pop(key, None)
        self._learned[key] = time.monotonic()


async def _ask(upstream: Upstream | Split, model: str) -> tuple[str, list[str]] | None:
    """Return the version that answers now and its labels; None where the predictor does not name them."""
    reply = await upstream.send("GET", f"/v2/models/{quote(model, safe='')}", {}, None)
    names = _labels(reply.body) if reply.status == 200 else None
    return (reply.version, names) if reply.version and names else None


class _Parameters(LooseDocument):
    labels: list[str] = Field([], fail_fast=True, max_length=MOST_LABELS, description="a list of strings")


class _Output(LooseDocument):
    parameters: _Parameters | None = Field(None, description="an object")


class _Metadata(LooseDocument):
    outputs: list[_Output] = Field(fail_fast=True, description="a list of objects")


def _labels(body: bytes) -> list[str] | None:
    """Return the labels in V2 metadata, the parameter of an output; None where there are none that could be."""
    try:
        outputs = read(_Metadata, parse_reply(body)).outputs
    except ModelServerError:
        return None
    named = (output.parameters.labels for output in outputs if output.parameters)
    labels = next((labels for labels in named if labels), None)
    return labels if labels and all(is_label(label) for label in labels) else None
