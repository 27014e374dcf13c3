"""The predictor without its protocols: a model that loads, proves itself, and classifies through micro-batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_server import classifier as classifiers
from model_server.batcher import Batcher
from model_server.classifier import Classifier, Picture
from model_server.config import PredictorSettings
from model_server.errors import InvalidInput, ModelServerError, NotFound, NotReady, PayloadTooLarge
from model_server.image import Limits
from model_server.predictor import metrics
from model_server.runtimes import Session

logger = logging.getLogger(__name__)

Scores = NDArray[np.float32]


class PredictorService:
    """One model's life: loading, ready or failed, closed.

    ``name`` is the model's name in URLs and is known before the model is loaded.
    """

    def __init__(self, settings: PredictorSettings, threads: int) -> None:
        self._settings = settings
        self._threads = threads
        self._path = settings.model_dir or classifiers.DEFAULT_MODEL
        self._classifier: Classifier | None = None
        self._why_not_ready = "The model is being loaded."
        self._stages: list[Batcher[Any, Any]] = []
        self.name = settings.model_name or classifiers.name_of(self._path)
        metrics.QUEUE_LENGTH.set_function(lambda: sum(stage.waiting for stage in self._stages))

    @property
    def ready(self) -> bool:
        """Whether the model has passed its golden check."""
        return self._classifier is not None

    @property
    def classifier(self) -> Classifier:
        """The loaded model; raises NotReady with the reason."""
        if self._classifier is None:
            raise NotReady(f"The model {self.name} is not ready. {self._why_not_ready}")
        return self._classifier

    @property
    def version(self) -> str:
        """Version of the loaded model; raises NotReady."""
        return self.classifier.bundle.manifest.version

    def require(self, name: str, version: str | None = None) -> Classifier:
        """Return the model if that is what it is called; raises NotFound or NotReady."""
        if name != self.name:
            raise NotFound(f"There is no model {name!r}; this server has {self.name!r}.")
        if version is not None and version != self.version:
            raise NotFound(f"There is no version {version!r} of {name!r}; this server has {self.version!r}.")
        return self.classifier

    async def load(self) -> None:
        """Load and check the model off the event loop; a model that fails leaves the server up and not ready."""
        begun = time.perf_counter()
        try:
            loaded = await asyncio.to_thread(self._load)
        except ModelServerError as error:
            self._why_not_ready = str(error)
            logger.error("model not ready: %s", error)  # noqa: TRY400 - the sentence says it, a trace would not
            return
        except Exception:
            self._why_not_ready = "It could not be loaded; the server's log has the reason."
            logger.exception("model not ready")
            return
        manifest, runtime = loaded.bundle.manifest, loaded.model.runtime
        self._stages = self._build_stages(loaded)
        self._classifier = loaded
        metrics.MODEL.info({"name": self.name, "version": manifest.version, "runtime": runtime})
        metrics.READY.set(1)
        logger.info(
            "model ready",
            extra={
                "model": self.name,
                "version": manifest.version,
                "runtime": runtime,
                "threads": self._threads,
                "load_seconds": round(time.perf_counter() - begun, 3),
            },
        )

    async def close(self) -> None:
        """Stop being ready, finish what is queued, end the threads."""
        self._classifier, self._why_not_ready = None, "The server is shutting down."
        metrics.READY.set(0)
        for stage in self._stages:
            await stage.close()

    async def classify(self, pictures: Sequence[Picture], where: str = "") -> Scores:
        """Return probabilities float32 [N, classes] in the order of ``pictures``.

        The error of one picture is raised with its place, ``where[i]``. Raises Overloaded where the queue is full.
        """
        rows: list[Any] = list(pictures)
        for stage in self._stages:
            rows = await _all(stage.submit(rows), where)
        return np.stack(rows)

    def _load(self) -> Classifier:
        settings = self._settings
        limits = Limits(settings.max_image_bytes, settings.max_image_pixels)
        loaded = classifiers.load(self._path, settings.runtime, self._threads, limits)
        loaded.check_golden()
        return loaded

    def _build_stages(self, loaded: Classifier) -> list[Batcher[Any, Any]]:
        """Decode and infer in one go where single images run best, in two stages where batches do."""
        capacity = self._settings.queue_size
        if not loaded.model.batches:
            workers = [_decode_then_infer(loaded, loaded.session()) for _ in range(self._threads)]
            return [Batcher(workers, max_batch=1, capacity=capacity)]
        decoders = Batcher([_decoder(loaded)] * self._threads, max_batch=1, capacity=capacity)
        # What was admitted to the first stage is never refused by the second.
        inferrer: Batcher[Any, Any] = Batcher(
            [_inferrer(loaded.session())], max_batch=self._settings.max_batch, capacity=2**31
        )
        return [decoders, inferrer]


def _decoder(loaded: Classifier) -> Callable[[list[Picture]], list[NDArray[Any]]]:
    def decode(pictures: list[Picture]) -> list[NDArray[Any]]:
        with metrics.DECODE_SECONDS.time():
            return [loaded.prepare(picture) for picture in pictures]

    return decode


def _inferrer(infer: Session) -> Callable[[list[NDArray[Any]]], Scores]:
    def run(inputs: list[NDArray[Any]]) -> Scores:
        metrics.BATCH_SIZE.observe(len(inputs))
        with metrics.INFERENCE_SECONDS.time():
            return infer(inputs[0][np.newaxis] if len(inputs) == 1 else np.stack(inputs))

    return run


def _decode_then_infer(loaded: Classifier, infer: Session) -> Callable[[list[Picture]], Scores]:
    decode, run = _decoder(loaded), _inferrer(infer)
    return lambda pictures: run(decode(pictures))


async def _all(futures: list[asyncio.Future[Any]], where: str) -> list[Any]:
    if len(futures) == 1 and not where:
        return [await futures[0]]
    results = await asyncio.gather(*futures, return_exceptions=True)
    for place, result in enumerate(results):
        if isinstance(result, InvalidInput | PayloadTooLarge) and where:
            raise type(result)(f"{where}[{place}]: {result}")
        if isinstance(result, BaseException):
            raise result
    return results
