"""Decoding in worker processes, inference in batches in the server's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model_server import classifier as classifiers
from model_server.batcher import Batcher
from model_server.classifier import Classifier, ServedModel
from model_server.config import PredictorSettings
from model_server.decoding.messages import Decoding
from model_server.decoding.pool import Pool
from model_server.predictor import metrics
from model_server.predictor.workers import Measured, Stage

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]


class BatchingWorkers:
    """For a runtime in which one session with many pictures beats many with one each."""

    def __init__(self, settings: PredictorSettings, count: int) -> None:
        self._settings = settings
        self._count = count
        self._pool = Pool(count, Measured())
        self._inferrer: Batcher[Pixels, NDArray[np.float32]] | None = None

    @property
    def waiting(self) -> int:
        """Pictures that no process has begun, and decoded ones that wait for inference."""
        return self._pool.waiting + (self._inferrer.waiting if self._inferrer else 0)

    @property
    def alive(self) -> int:
        """Processes that decode."""
        return self._pool.alive

    @property
    def stages(self) -> Sequence[Stage]:
        """Decoding, then inference."""
        return [self._pool.submit, self._inferrer.submit] if self._inferrer else []

    async def start(self) -> ServedModel:
        """Load and check the model off the event loop; raises BundleError."""
        try:
            loaded = await asyncio.to_thread(classifiers.load_checked, self._settings, self._count)
        except BaseException:
            await self._pool.close()
            raise
        self._pool.begin(Decoding(loaded.bundle.manifest.input, loaded.limits))
        await self._pool.start()
        self._inferrer = Batcher([_inferrer(loaded)], max_batch=self._settings.max_batch)
        return loaded.served

    async def close(self) -> None:
        """Finish what waits, then end the processes and the thread."""
        await self._pool.close()
        if self._inferrer:
            await self._inferrer.close()


def _inferrer(loaded: Classifier) -> Callable[[list[Pixels]], Scores]:
    infer = loaded.session()

    def run(pictures: list[Pixels]) -> Scores:
        metrics.BATCH_SIZE.observe(len(pictures))
        with metrics.INFERENCE_SECONDS.time():
            return infer(loaded.scaled(np.stack(pictures)))

    return run
