"""Decoding and inference in threads of the server's process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_server import classifier as classifiers
from model_server import runtimes
from model_server.batcher import Batcher
from model_server.classifier import Classifier, Picture
from model_server.config import PredictorSettings
from model_server.predictor import metrics
from model_server.predictor.workers import ServedModel, Stage
from model_server.runtimes import Session

Scores = NDArray[np.float32]


class ThreadWorkers:
    """Decodes and infers in one go where single images run best, in two stages where batches do."""

    def __init__(self, settings: PredictorSettings, count: int) -> None:
        self._settings = settings
        self._count = count
        self._batchers: list[Batcher[Any, Any]] = []

    @property
    def waiting(self) -> int:
        """Pictures that no thread has begun, and decoded ones that wait for inference."""
        return sum(batcher.waiting for batcher in self._batchers)

    @property
    def alive(self) -> int:
        """Threads that decode."""
        return self._count if self._batchers else 0

    @property
    def stages(self) -> Sequence[Stage]:
        """Decoding with inference, or decoding and inference."""
        return [batcher.submit for batcher in self._batchers]

    async def start(self) -> ServedModel:
        """Load and check the model off the event loop; raises BundleError."""
        loaded = await asyncio.to_thread(classifiers.load_checked, self._settings, self._count)
        runtime = loaded.model.runtime
        if runtime in runtimes.BATCHING:
            decoders = Batcher([_decoder(loaded)] * self._count, max_batch=1)
            inferrer: Batcher[Any, Any] = Batcher([_inferrer(loaded.session())], max_batch=self._settings.max_batch)
            self._batchers = [decoders, inferrer]
        else:
            workers = [_decode_then_infer(loaded, loaded.session()) for _ in range(self._count)]
            self._batchers = [Batcher(workers, max_batch=1)]
        return ServedModel(loaded.bundle, runtime)

    async def close(self) -> None:
        """Finish what waits, then end the threads."""
        for batcher in self._batchers:
            await batcher.close()


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
