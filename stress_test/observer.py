"""Samples of a system while it is under load: replicas, queue, latency, CPU time."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 1.0
LATENCY = "model_server_queue_proxy_request_seconds_bucket"
ROUTES = {"/v1/models", "/v2"}
T = TypeVar("T")
Buckets = Mapping[float, float]
"""Upper bound in seconds to requests that took no longer."""


@dataclass(frozen=True)
class Sample:
    """``at``: Unix time; ``p95_ms``: of the second before. None: could not be told."""

    at: float
    replicas: int | None = None
    queued: int | None = None
    oldest_age_seconds: float | None = None
    cpu_seconds: float | None = None
    p95_ms: float | None = None

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def nothing() -> None:
    """Tell nothing."""


def told(probe: Callable[[], T | None]) -> T | None:
    """Return what a probe tells; None where it fails, as one failure is not to end the sampling."""
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 - whatever the reason, it could not be told
        logger.warning("%s: %s", getattr(probe, "__qualname__", probe), error)
        return None


@dataclass
class Observer:
    """Asks a queue-proxy, and whoever knows of replicas and CPU time."""

    url: str
    replicas: Callable[[], int | None] = nothing
    cpu_seconds: Callable[[], float | None] = nothing
    token: str | None = None
    before: Buckets | None = None

    def sample(self) -> Sample:
        """Return the state now."""
        now = time.time()
        replicas, (queued, oldest) = told(self.replicas), told(self._queue) or (None, None)
        return Sample(now, replicas, queued, oldest, told(self.cpu_seconds), told(self._p95_ms))

    def _queue(self) -> tuple[int | None, float | None]:
        with contextlib.suppress(ValueError, KeyError):
            document = json.loads(self._get("/v1/queue"))
            return int(document["queued"]), float(document["oldest_age_seconds"] or 0)
        return None, None

    def _p95_ms(self) -> float | None:
        after = buckets(self._get("/metrics").decode())
        before, self.before = self.before, after
        seconds = quantile(before, after, 0.95) if before else None
        return None if seconds is None else seconds * 1000

    def _get(self, path: str) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=5) as reply:
                return bytes(reply.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            logger.warning("%s: %s", path, error)
            return b""

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Sample]]:
        """Sample about once a second until the block is left; the list grows meanwhile."""
        samples, over = [self.sample()], threading.Event()

        def loop() -> None:
            while not over.wait(SAMPLE_SECONDS):
                samples.append(self.sample())

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield samples
        finally:
            over.set()
            thread.join()
            samples.append(self.sample())


def buckets(text: str) -> dict[float, float]:
    """Return the predictions' histogram of latencies in a text of Prometheus, all routes of predictions together."""
    found: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name == LATENCY and one.labels["route"] in ROUTES:
                bound = float(one.labels["le"])
                found[bound] = found.get(bound, 0.0) + one.value
    return found


def quantile(before: Buckets, after: Buckets, share: float) -> float | None:
    """Return a quantile of what came between two readings, by a straight line inside its bucket as Prometheus does.

    None where nothing came, or where the counters began anew; the last finite bound where it lies beyond it.
    """
    counts = {bound: value - before.get(bound, 0.0) for bound, value in sorted(after.items())}
    total = counts.get(math.inf, 0.0)
    if total <= 0:
        return None
    wanted, lower, below = share * total, 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted:
            return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = bound, count
    return lower
