"""How pictures become probabilities: decoded in worker processes, and inferred there or in batches in this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from model_server import classifier as classifiers
from model_server import runtimes
from model_server.classifier import ServedModel
from model_server.config import PredictorSettings
from model_server.decoding.messages import Classifying, Outcome
from model_server.decoding.pool import Observer, Pool
from model_server.errors import BundleError
from model_server.predictor import metrics

Stage = Callable[[Sequence[Any]], list[asyncio.Future[Any]]]
"""Takes items, returns a future for each, in order: cancelled ones are skipped."""


class Workers(Protocol):
    """A model in memory, and what feeds it."""

    @property
    def waiting(self) -> int:
        """Pictures that no worker has begun."""

    @property
    def alive(self) -> int:
        """Workers that can take a picture."""

    @property
    def stages(self) -> Sequence[Stage]:
        """The way from pictures to rows of probabilities [classes], at least one step."""

    async def start(self) -> ServedModel:
        """Load and check the model; raises BundleError."""

    async def close(self) -> None:
        """Finish what waits and end."""


class Measured(Observer):
    """Counts a pool's work among the predictor's metrics."""

    def finished(self, outcome: Outcome) -> None:
        """Observe the time of decoding, and of an inference."""
        metrics.DECODE_SECONDS.observe(outcome.decode_seconds)
        if outcome.inference_seconds:
            metrics.BATCH_SIZE.observe(1)
            metrics.INFERENCE_SECONDS.observe(outcome.inference_seconds)

    def replaced(self) -> None:
        """Count it."""
        metrics.WORKER_RESTARTS.inc()


class SingleWorkers:
    """Worker processes that infer the picture they have decoded; they are on their way once this is made."""

    def __init__(self, settings: PredictorSettings, count: int) -> None:
        self._pool = Pool(count, Measured())
        self._pool.begin(Classifying(settings))

    @property
    def waiting(self) -> int:
        """Pictures that no process has begun."""
        return self._pool.waiting

    @property
    def alive(self) -> int:
        """Processes that can take a picture."""
        return self._pool.alive

    @property
    def stages(self) -> Sequence[Stage]:
        """Decoding and inference in one."""
        return [self._pool.submit]

    async def start(self) -> ServedModel:
        """Wait until each process has loaded and checked the model; raises BundleError."""
        model = await self._pool.start()
        assert model is not None  # noqa: S101 - what Classifying asks for
        return model

    async def close(self) -> None:
        """Finish what waits, then end the processes."""
        await self._pool.close()


def prepare(settings: PredictorSettings) -> Workers:
    """Choose the workers by ``settings``; their processes are started at once and load while the caller goes on.

    Outside of a running loop.
    """
    count = settings.workers or runtimes.cores()
    if _batches(settings):
        from model_server.predictor.batching_workers import BatchingWorkers

        return BatchingWorkers(settings, count)
    return SingleWorkers(settings, count)


def _batches(settings: PredictorSettings) -> bool:
    try:
        return (
            classifiers.runtime_of(settings.model_dir or classifiers.DEFAULT_MODEL, settings.runtime)
            in runtimes.BATCHING
        )
    except BundleError:  # loading says it better
        return False
