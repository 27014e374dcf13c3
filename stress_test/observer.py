"""Samples of a system while it is under load: replicas, queue, CPU time."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """``at``: Unix time. None: could not be told."""

    at: float
    replicas: int | None
    queued: int | None
    oldest_age_seconds: float | None
    cpu_seconds: float | None

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def queue_state(url: str, token: str | None = None) -> tuple[int | None, float | None]:
    """Return how many wait and the age of the oldest; None where the server does not say."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError, ValueError, KeyError):
        request = urllib.request.Request(f"{url}/v1/queue", headers=headers)
        with urllib.request.urlopen(request, timeout=5) as reply:
            document = json.load(reply)
        return int(document["queued"]), float(document["oldest_age_seconds"] or 0)
    return None, None


@contextlib.contextmanager
def observing(
    url: str,
    replicas: Callable[[], int | None],
    cpu_seconds: Callable[[], float | None],
    token: str | None = None,
) -> Iterator[list[Sample]]:
    """Sample about once a second until the block is left; the list grows meanwhile."""
    samples: list[Sample] = []
    over = threading.Event()

    def sample() -> None:
        samples.append(Sample(time.time(), replicas(), *queue_state(url, token), cpu_seconds()))

    def loop() -> None:
        while not over.wait(SAMPLE_SECONDS):
            sample()

    sample()
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        sample()
