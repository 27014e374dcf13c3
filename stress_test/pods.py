"""Replicas in a cluster, whatever scales them: HPA, KEDA and Knative all make pods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PREDICTOR = "serving.kserve.io/inferenceservice={name},component=predictor"
"""Labels that KServe gives to an InferenceService's predictor pods, in both of its deployment modes."""


class Pods:
    """Those of a namespace with some labels; uses the current context of kubectl, or a pod's own service account."""

    def __init__(self, namespace: str, selector: str) -> None:
        from kubernetes import client, config

        config.load_config()
        self._api = client.CoreV1Api()
        self._namespace = namespace
        self._selector = selector

    def ready(self) -> int:
        """Return how many are ready."""
        listed = self._api.list_namespaced_pod(self._namespace, label_selector=self._selector, _request_timeout=10)
        return count_ready(listed.items)


def count_ready(pods: Iterable[Any]) -> int:
    """Return how many pods serve: ready, and not on their way out."""
    return sum(1 for pod in pods if pod.metadata.deletion_timestamp is None and _is_ready(pod))


def _is_ready(pod: Any) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or [])
