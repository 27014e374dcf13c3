"""Learning which classes a model version has, while the predictor is awake to say so."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import quote

from pydantic import Field

from model_server.background import Background, Duty
from model_server.bundle import MOST_LABELS, is_label
from model_server.documents.document import LooseDocument, read
from model_server.errors import BadGateway, GatewayTimeout, ModelServerError, Unavailable
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
PREDICTOR_ERRORS = (BadGateway, GatewayTimeout, Unavailable)
"""What a predictor is asked for again after; see ``Upstream.send``."""
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
        self._is_introduced = False
        self._more = asyncio.Event()
        split.on_answer(self._answered)

    def _answered(self, upstream: Upstream, model: str, version: str) -> None:
        key = upstream, model, version
        if key in self._wanted or time.monotonic() - self._learned.get(key, -REFRESH_SECONDS) < REFRESH_SECONDS:
            return
        self._wanted[key] = TRIES
        self._more.set()

    async def run(self, background: Background) -> None:
        """Learn until cancelled."""
        duty = background.duty("labels")
        await duty.repeat(lambda: self._learn(duty), 0)

    async def _learn(self, duty: Duty) -> None:
        """Wait until a version is to be asked for, and ask each once."""
        if not self._is_introduced:
            await self._introduce()
            self._is_introduced = True
            duty.works()
        await self._more.wait()
        for key in list(self._wanted):
            await self._try(key)
        duty.works()
        if self._wanted:
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            self._more.clear()

    async def _introduce(self) -> None:
        """Learn what is served now, so that feedback on the first prediction finds its classes."""
        for _ in range(TRIES):
            if self._wanted:
                return
            try:
                found = {model: await _ask(self._split, model) for model in await served_models(self._split)}
            except PREDICTOR_ERRORS:
                await asyncio.sleep(FIRST_SECONDS)
                continue
            for model, known in found.items():
                if known:
                    await labels.remember(self._database, model, *known)
            return

    async def _try(self, key: Version) -> None:
        upstream, model, _ = key
        try:
            found = await _ask(upstream, model)
        except PREDICTOR_ERRORS as error:
            logger.info("labels not learned yet", extra={"model": model, "reason": str(error)})
            found = None
        if found is not None:
            version, names = found
            await labels.remember(self._database, model, version, names)
            self._finish((upstream, model, version))
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
