"""Where pictures are decoded and inferred: in processes of their own, or in threads of the server's process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model_server import classifier as classifiers
from model_server import runtimes
from model_server.bundle import Bundle
from model_server.config import PredictorSettings, RuntimeName
from model_server.errors import BundleError

Stage = Callable[[Sequence[Any]], list[asyncio.Future[Any]]]
"""Takes items, returns a future for each, in order: cancelled ones are skipped."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the protocols need to know of a model that is in memory, be it in this process or in others."""

    bundle: Bundle
    runtime: RuntimeName

    @property
    def labels(self) -> list[str]:
        """Its classes, in the order of the scores."""
        return self.bundle.labels


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


def prepare(settings: PredictorSettings) -> Workers:
    """Choose the workers by ``settings``; processes are started at once and load while the caller goes on.

    Outside of a running loop.
    """
    count = settings.workers or runtimes.cores()
    if _kind(settings, count) == "process":
        from model_server.predictor.process_workers import ProcessWorkers

        return ProcessWorkers(settings, count)
    from model_server.predictor.thread_workers import ThreadWorkers

    return ThreadWorkers(settings, count)


def _kind(settings: PredictorSettings, count: int) -> str:
    """Threads for a runtime that batches, which uses all cores by itself, and where a process would be alone."""
    if settings.worker_kind != "auto":
        return settings.worker_kind
    try:
        runtime = classifiers.runtime_of(settings.model_dir or classifiers.DEFAULT_MODEL, settings.runtime)
    except BundleError:  # loading says it better
        return "thread"
    return "thread" if count == 1 or runtime in runtimes.BATCHING else "process"
