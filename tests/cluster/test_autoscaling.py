"""Under a backlog the predictor gets more pods, and all of it is worked off. Prints how many pods there were when."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from cluster.release import Release

BACKLOG = 3000
SECONDS = 600


def test_a_backlog_brings_more_pods_and_is_worked_off(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        client.CustomObjectsApi().get_namespaced_custom_object(
            "keda.sh", "v1alpha1", release.namespace, "scaledobjects", f"{release.name}-model"
        )
    except ApiException as error:
        pytest.skip(f"the release does not scale with the queue: {error.reason}")
    model = release.model()
    begun, seen, pods = time.monotonic(), -1, Counter[int]()
    with ThreadPoolExecutor(16) as pool:
        identifiers = list(pool.map(lambda _: release.submit(model), range(BACKLOG)))
        waiting = pool.map(release.finished, identifiers)
        while (seconds := time.monotonic() - begun) < SECONDS and release.queue()["queued"]:
            now = len(release.predictor_pods())
            pods[now] += 1
            if now != seen:
                with capsys.disabled():
                    print(f"{seconds:6.1f} s: {release.queue()['queued']:5d} queued, {now} pods")
                seen = now
            time.sleep(1)
        assert Counter(waiting) == {"succeeded": BACKLOG}
    assert max(pods) > 1, pods
