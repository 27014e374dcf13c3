"""The predictor without its protocols: a model that loads, proves itself, and classifies through its workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_server import classifier as classifiers
from model_server.classifier import Picture, ServedModel
from model_server.config import PredictorSettings
from model_server.errors import InvalidInput, ModelServerError, NotFound, NotReady, Overloaded, PayloadTooLarge, shown
from model_server.predictor import metrics
from model_server.predictor.workers import Workers
from model_server.schema import LOADING

logger = logging.getLogger(__name__)

Scores = NDArray[np.float32]


class PredictorService:
    """One model's life: loading, ready or failed, closed.

    ``name`` is the model's name in URLs and is known before the model is loaded.
    """

    def __init__(self, settings: PredictorSettings, workers: Workers) -> None:
        self._workers = workers
        self._queue_size = settings.queue_size
        self._model: ServedModel | None = None
        self._why_not_ready = LOADING
        self.name = settings.model_name or classifiers.name_of(settings.model_dir or classifiers.DEFAULT_MODEL)
        metrics.QUEUE_LENGTH.set_function(lambda: workers.waiting)
        metrics.WORKERS.set_function(lambda: workers.alive)
        metrics.READY.set_function(lambda: self.ready)

    @property
    def ready(self) -> bool:
        """Whether the model has passed its golden check and a worker can take a picture."""
        return self._model is not None and self._workers.alive > 0

    @property
    def model(self) -> ServedModel:
        """The loaded model; raises NotReady with the reason."""
        if self._model is None:
            raise NotReady(f"The model {self.name} is not ready. {self._why_not_ready}")
        return self._model

    @property
    def version(self) -> str:
        """Version of the loaded model; raises NotReady."""
        return self.model.bundle.manifest.version

    def require(self, name: str, version: str | None = None) -> ServedModel:
        """Return the model if that is what it is called; raises NotFound or NotReady."""
        if name != self.name:
            raise NotFound(f"There is no model {shown(name)}; this server has {self.name!r}.")
        if version is not None and version != self.version:
            raise NotFound(f"There is no version {shown(version)} of {name!r}; this server has {self.version!r}.")
        return self.model

    def require_ready(self) -> None:
        """Raise NotReady where the model is not loaded, or no worker lives: requests then wait for a new one."""
        if self.model and not self.ready:
            raise NotReady(f"The model {self.name} is not ready. Its worker processes died and are being replaced.")

    async def load(self) -> None:
        """Load and check the model off the event loop; a model that fails leaves the server up and not ready."""
        begun = time.perf_counter()
        try:
            model = await self._workers.start()
        except ModelServerError as error:
            self._why_not_ready = str(error)
            logger.error("model not ready: %s", error)  # noqa: TRY400 - the sentence says it, a trace would not
            return
        except Exception:
            self._why_not_ready = "It could not be loaded; the server's log has the reason."
            logger.exception("model not ready")
            return
        self._model = model
        facts = {"version": model.bundle.manifest.version, "runtime": model.runtime}
        metrics.MODEL.info({"name": self.name, **facts})
        seconds = round(time.perf_counter() - begun, 3)
        logger.info(
            "model ready",
            extra={"model": self.name, **facts, "workers": self._workers.alive, "load_seconds": seconds},
        )

    async def close(self) -> None:
        """Stop being ready, finish what is queued, end the workers."""
        self._model, self._why_not_ready = None, "The server is shutting down."
        await self._workers.close()

    async def classify(self, pictures: Sequence[Picture], where: str = "") -> Scores:
        """Return probabilities float32 [N, classes] in the order of ``pictures``.

        The error of one picture is raised with its place, ``where[i]``. Raises Overloaded, and takes none of
        ``pictures``, where they do not fit into the queue.
        """
        if self._workers.waiting + len(pictures) > self._queue_size:
            raise Overloaded(f"The queue is full: {self._queue_size} images are waiting. Try again later.")
        rows: list[Any] = list(pictures)
        for submit in self._workers.stages:
            rows = await _all(submit(rows), where)
        return np.stack(rows)


async def _all(futures: list[asyncio.Future[Any]], where: str) -> list[Any]:
    """Return their results; where one fails, or the caller is gone, the others are not worked on any more."""
    if len(futures) == 1 and not where:
        return [await futures[0]]
    try:
        return await asyncio.gather(*futures)
    except (InvalidInput, PayloadTooLarge) as error:
        place = next(place for place, future in enumerate(futures) if _error_of(future) is error)
        raise type(error)(f"{where}[{place}]: {error}") from None
    finally:
        for future in futures:
            future.cancel()


def _error_of(future: asyncio.Future[Any]) -> BaseException | None:
    return future.exception() if future.done() and not future.cancelled() else None
