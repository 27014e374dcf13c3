"""What the README promises of a cluster, on one.

Run: scripts/kind-up --keda && scripts/deploy && scripts/test -m cluster tests/cluster
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from chart import CHART, tool
from cluster.release import Release, wait_until
from queue_server import photo

JOBS = 200
KINDS = ["all", "secrets", "configmaps", "serviceaccounts", "networkpolicies", "poddisruptionbudgets", "pvc"]
KINDS += ["inferenceservices", "servingruntimes"]


def test_the_inference_service_becomes_ready(release: Release) -> None:
    def ready() -> bool:
        conditions = release.inference_service().get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    assert wait_until(ready)


def test_helm_test_classifies_and_reads_its_feedback_back(release: Release) -> None:
    command = [tool("helm"), "test", release.name, "--namespace", release.namespace, "--logs", "--timeout", "5m"]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "judged, read back" in tested.stdout


def test_synchronous_and_queued_requests_agree(release: Release) -> None:
    content, model = photo(), release.model()
    direct = release.predict(model, content).json()["predictions"]
    queued = release.predict(model, content, Prefer="respond-async, wait=60", Cache_Control="no-cache").json()
    assert (queued["status"], queued["predictions"]) == ("succeeded", direct)


def test_feedback_on_a_prediction_is_found_again(release: Release) -> None:
    prediction = release.predict(release.model(), photo(), Prefer="respond-async, wait=60").json()
    best = prediction["predictions"][0]
    given = {"score": best["score"], "predicted_class": best["label"], "image_file_name": "a.jpg", "feedback": "yes"}
    given["prediction_id"] = prediction["id"]
    posted = httpx.post(f"{release.url}/feedback/", json=given, headers=release.headers, timeout=60)
    assert posted.status_code == 201, posted.text
    assert prediction["id"] in httpx.get(f"{release.url}/feedback/", headers=release.headers, timeout=60).text


def test_killed_predictor_loses_no_job(release: Release) -> None:
    """Each of the 200 ends with a result although the pod dies in the middle."""
    with ThreadPoolExecutor(8) as pool:
        identifiers = list(pool.map(lambda _: release.submit(), range(JOBS)))
        for pod in release.predictor_pods():
            client.CoreV1Api().delete_namespaced_pod(pod.metadata.name, release.namespace, grace_period_seconds=0)
        ended = list(pool.map(release.finished, identifiers))
    assert Counter(ended) == {"succeeded": JOBS}


def test_a_rolling_update_drops_no_request(release: Release) -> None:
    """Requests go on, one after another from four callers, while every pod of the predictor is replaced."""
    model, stop, statuses = release.model(), threading.Event(), Counter[int]()

    def ask() -> None:
        while not stop.is_set():
            statuses[release.predict(model, photo(), Cache_Control="no-cache").status_code] += 1

    before = {pod.metadata.name for pod in wait_until(release.predictor_pods)}
    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(ask) for _ in range(4)]
        annotations = {"tests/rolled-at": str(time.time())}
        release.update_inference_service({"spec": {"predictor": {"annotations": annotations}}})
        try:
            wait_until(lambda: not before & {pod.metadata.name for pod in release.predictor_pods()})
        finally:
            stop.set()
        for caller in callers:
            caller.result()
    assert set(statuses) == {200}, statuses


def test_scaled_to_zero_it_wakes_for_what_is_queued(release: Release) -> None:
    try:
        scaled = client.CustomObjectsApi().get_namespaced_custom_object(
            "keda.sh", "v1alpha1", release.namespace, "scaledobjects", f"{release.name}-model"
        )
    except ApiException as error:
        pytest.skip(f"the release does not scale with the queue: {error.reason}")
    if scaled["spec"]["minReplicaCount"] > 0:
        pytest.skip("the release keeps a pod")
    model = release.model()
    wait_until(lambda: not release.predictor_pods(), seconds=scaled["spec"]["cooldownPeriod"] + 300)
    assert release.finished(release.submit(model)) == "succeeded"


@pytest.mark.parametrize(("service", "port"), [("{}-model", 80), ("{}-postgres", 5432)])
def test_a_stranger_reaches_neither_predictor_nor_postgres(release: Release, service: str, port: int) -> None:
    assert release.finished(release.submit()) == "succeeded", "the predictor sleeps, and nobody would reach it"
    assert release.reached_by_a_stranger(f"{release.name}-queue-proxy", 80), "the stranger reaches nothing at all"
    assert not release.reached_by_a_stranger(service.format(release.name), port)


@pytest.mark.skipif(
    "CLUSTER_TESTS_UNINSTALL" not in os.environ, reason="CLUSTER_TESTS_UNINSTALL is unset: it ends the release"
)
def test_uninstalling_leaves_nothing_but_the_volume_and_installing_again_finds_it(release: Release) -> None:
    """And the pod of `helm test`, which Helm counts to no release."""
    helm, where = tool("helm"), ["--namespace", release.namespace]
    kept = release.predict(release.model(), photo(), Prefer="respond-async, wait=60").json()["id"]
    values = subprocess.run(
        [helm, "get", "values", release.name, *where], capture_output=True, text=True, check=True
    ).stdout
    subprocess.run([helm, "uninstall", release.name, *where, "--wait"], check=True)
    test_pod = ["delete", "pod", f"{release.name}-test", "--ignore-not-found"]
    subprocess.run([tool("kubectl"), *where, *test_pod], check=True)
    selector = ["--selector", f"app.kubernetes.io/instance={release.name}", "--output", "name"]
    command = [tool("kubectl"), *where, "get", ",".join(KINDS), *selector]

    def left() -> list[str]:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    wait_until(lambda: left() == [f"persistentvolumeclaim/data-{release.name}-postgres-0"])
    again = [helm, "install", release.name, str(CHART), *where, "--values", "-", "--wait", "--timeout", "10m"]
    subprocess.run(again, input=values.partition("\n")[2], text=True, check=True)
    query = f"SELECT status FROM predictions WHERE id = '{kept}'"
    psql = [
        "exec",
        f"{release.name}-postgres-0",
        "--",
        "psql",
        "--username=model_server",
        "--tuples-only",
        "--command",
        query,
    ]
    found = subprocess.run([tool("kubectl"), *where, *psql], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "succeeded"
