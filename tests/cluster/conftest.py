"""Tests of an installed release. They need KUBECONFIG (or --kubeconfig) and what scripts/deploy has installed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import httpx
import pytest
from kubernetes import client, config

from cluster.release import Release, forwarded

NAMESPACE = os.environ.get("CLUSTER_TESTS_NAMESPACE", "image-classifier")
RELEASE = os.environ.get("CLUSTER_TESTS_RELEASE", "image-classifier")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/cluster/" in str(item.path):
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def release() -> Iterator[Release]:
    """Return the release, with an account of this session's own where predictions need one."""
    try:
        config.load_kube_config()
        client.CustomObjectsApi().get_namespaced_custom_object(
            "serving.kserve.io", "v1beta1", NAMESPACE, "inferenceservices", RELEASE
        )
    except Exception as error:  # noqa: BLE001 - whatever the reason, there is no release to test
        pytest.skip(f"no release {RELEASE} in the namespace {NAMESPACE} of a cluster that answers: {error}")
    with forwarded(NAMESPACE, f"{RELEASE}-queue-proxy") as url:
        user, token = _log_in(url)
        yield Release(NAMESPACE, RELEASE, url, token)
        httpx.delete(f"{url}/user/{user}", headers={"Authorization": f"Bearer {token}"})


def _log_in(url: str) -> tuple[str, str]:
    email, password = f"cluster-test-{secrets.token_hex(8)}@example.com", secrets.token_urlsafe(16)
    user = httpx.post(f"{url}/user/", json={"name": "cluster test", "email": email, "password": password}, timeout=60)
    user.raise_for_status()
    login = httpx.post(f"{url}/login", data={"username": email, "password": password}, timeout=60)
    login.raise_for_status()
    return user.json()["id"], login.json()["access_token"]
