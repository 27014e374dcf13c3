"""`model-server rollout` against a real API server, with the chart installed and KServe's part played by a thread."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from api_server import TOKEN, ApiServer, running_api_server
from chart import CHART
from conftest import environment_with
from model_server.cluster import standing
from system import COMMAND

NAME = "release-image-classifier"
BROKEN = "s3://models/broken"
SOURCE = "internal.serving.kserve.io/storage-initializer-sourceuri"
KSERVE = "/apis/serving.kserve.io/v1beta1"


@dataclass
class Controllers:
    """What KServe's, Knative's and the Deployment controller would do with the objects of one namespace.

    ``log`` has (URIs that a Deployment or revision was asked for) in order.
    """

    api: httpx.Client
    namespace: str
    log: list[str] = field(default_factory=list)
    revisions: dict[str, list[str]] = field(default_factory=dict)
    ready: dict[str, str] = field(default_factory=dict)

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            for service in self._get(f"{KSERVE}/namespaces/{self.namespace}/inferenceservices")["items"]:
                self._serve(service)
            for deployment in self._get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments")["items"]:
                self._deploy(deployment)
            time.sleep(0.1)

    def _get(self, path: str) -> dict[str, Any]:
        return self.api.get(path).json()

    def _merge(self, path: str, change: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        self.api.patch(path, content=json.dumps(change), headers=headers)

    def _serve(self, service: dict[str, Any]) -> None:
        name = service["metadata"]["name"]
        uri = service["spec"]["predictor"]["model"].get("storageUri", "")
        status: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "True"}]}
        if service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard":
            self._want(f"{name}-predictor", uri)
        else:
            status |= self._revise(name, uri)
        if status != service.get("status"):
            self._merge(f"{KSERVE}/namespaces/{self.namespace}/inferenceservices/{name}/status", {"status": status})

    def _want(self, name: str, uri: str) -> None:
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        found = self.api.get(f"{path}/{name}")
        template = {"metadata": {"labels": {"app": name}, "annotations": {SOURCE: uri}}}
        template["spec"] = {"containers": [{"name": "kserve-container", "image": "model-server"}]}  # type: ignore[assignment]
        if found.status_code == 404:
            spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template}
            self.api.post(path, json={"metadata": {"name": name}, "spec": spec})
        elif found.json()["spec"]["template"]["metadata"]["annotations"][SOURCE] != uri:
            self._merge(f"{path}/{name}", {"spec": {"template": template}})
        else:
            return
        self.log.append(uri)

    def _revise(self, name: str, uri: str) -> dict[str, Any]:
        made = self.revisions.setdefault(name, [])
        if not made or made[-1] != uri:
            made.append(uri)
            self.log.append(uri)
        revision = f"{name}-{len(made)}"
        model = {"transitionStatus": "UpToDate"}
        if uri == BROKEN:
            info = {"reason": "ModelLoadFailed", "message": "no such bucket"}
            model = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": info}  # type: ignore[dict-item]
        else:
            self.ready[name] = revision
        predictor = {"latestCreatedRevision": revision, "latestReadyRevision": self.ready[name]}
        ready = [{"type": "Ready", "status": "True"}]
        return {"conditions": ready, "components": {"predictor": predictor}, "modelStatus": model}

    def _deploy(self, deployment: dict[str, Any]) -> None:
        metadata, spec = deployment["metadata"], deployment["spec"]
        count = spec["replicas"]
        status = {"observedGeneration": metadata["generation"], "replicas": count, "updatedReplicas": count}
        status |= {"availableReplicas": count, "readyReplicas": count, "unavailableReplicas": None, "conditions": None}
        if spec["template"]["metadata"].get("annotations", {}).get(SOURCE) == BROKEN:
            stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
            stuck["message"] = "ReplicaSet has timed out progressing."
            status |= {"replicas": count + 1, "updatedReplicas": 1, "unavailableReplicas": 1, "conditions": [stuck]}
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{metadata['name']}/status"
        if any(deployment.get("status", {}).get(key) != value for key, value in status.items()):
            self._merge(path, {"status": status})


@dataclass
class Release:
    api: ApiServer
    namespace: str
    controllers: Controllers

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment(), capture_output=True, text=True, timeout=90, check=False
        )

    def command(self, *arguments: object) -> list[str]:
        place = ("--inference-service", NAME, "-n", self.namespace, "--timeout", 30)
        return [str(part) for part in (COMMAND, *arguments, *place)]

    def environment(self) -> dict[str, str]:
        # That the API server's certificate is nobody's would be warned of.
        quiet = {"PYTHONWARNINGS": "ignore"}
        return environment_with({}) | quiet | {"KUBECONFIG": str(self.api.kubeconfig)}

    def predictor(self, name: str = NAME) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("inferenceservice", name, self.namespace)["spec"]["predictor"]
        return found

    def uri(self) -> str | None:
        uri: str | None = self.predictor()["model"].get("storageUri")
        return uri

    def weights(self) -> dict[str, int] | None:
        deployment = self.api.get("deployment", NAME, self.namespace)
        env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        given = {one["name"]: one.get("value") for one in env}
        if "MODEL_SERVER_PREDICTORS" not in given:
            assert given["MODEL_SERVER_PREDICTOR_URL"] == f"http://{NAME}-model"
            return None
        return {one["url"]: one["weight"] for one in json.loads(given["MODEL_SERVER_PREDICTORS"])}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@contextlib.contextmanager
def installed(api: ApiServer, namespace: str, *values: str) -> Iterator[Release]:
    api.kubectl("create", "namespace", namespace)
    api.helm("install", "release", str(CHART), "-n", namespace, *values)
    cluster = yaml.safe_load(api.kubeconfig.read_text())["clusters"][0]["cluster"]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=cluster["server"], verify=False, headers=headers, timeout=30) as client:
        controllers, ended = Controllers(client, namespace), threading.Event()
        thread = threading.Thread(target=controllers.run, args=(ended,))
        thread.start()
        try:
            yield Release(api, namespace, controllers)
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def standard(api: ApiServer, request: pytest.FixtureRequest) -> Iterator[Release]:
    values = ("--set", "model.storageUri=s3://models/1,autoscaling.class=none")
    with installed(api, f"test-{abs(hash(request.node.name)):x}", *values) as release:
        yield release


@pytest.fixture
def knative(api: ApiServer, request: pytest.FixtureRequest) -> Iterator[Release]:
    values = "model.storageUri=s3://models/1,kserve.mode=Knative,autoscaling.class=knative"
    with installed(api, f"test-{abs(hash(request.node.name)):x}", "--set", values) as release:
        yield release


@pytest.mark.parametrize(("wanted", "before"), [("s3://models/1", "s3://models/12"), (None, "s3://models/12")])
def test_nothing_is_ready_before_kserve_has_taken_the_change_up(wanted: str | None, before: str) -> None:
    """The Deployment is still that of the model before, and all its pods are ready."""
    spec = {"replicas": 1, "template": {"metadata": {"annotations": {SOURCE: before}}}}
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    deployment = {"metadata": {"generation": 1}, "spec": spec, "status": status}
    service = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert not standing.of_service(service, deployment, wanted, before).is_ready
    spec["template"] = {"metadata": {"annotations": {SOURCE: wanted}}}
    assert standing.of_service(service, deployment, wanted, before).is_ready


def test_a_model_is_put_into_service_and_taken_back(standard: Release) -> None:
    done = standard.run("rollout", "s3://models/2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{NAME} serves s3://models/2 to all callers, after s3://models/1.\n"
    assert standard.uri() == "s3://models/2"
    assert standard.run("rollout", "s3://models/3").returncode == 0
    assert standard.run("rollback").stdout == f"{NAME} serves s3://models/2 to all callers again.\n"
    assert standard.run("rollback").returncode == 0
    assert standard.uri() == "s3://models/1"
    again = standard.run("rollback")
    assert again.returncode == 1
    assert "nothing to go back to" in again.stderr
    standard.api.helm("upgrade", "release", str(CHART), "-n", standard.namespace, "--reuse-values")


def test_the_model_in_the_image_is_come_back_to(api: ApiServer) -> None:
    """Which has no URI, and no folder that a variable names."""
    with installed(api, "bare", "--set", "autoscaling.class=none") as release:
        before = release.predictor()
        assert release.run("rollout", "s3://models/2").returncode == 0
        assert {"name": "MODEL_SERVER_MODEL_DIR", "value": "/mnt/models"} in release.predictor()["model"]["env"]
        back = release.run("rollback")
        assert "serves the model in the image to all callers again" in back.stdout, back.stderr
        assert release.predictor()["model"].get("storageUri") is None
        assert release.predictor()["model"].get("env", []) == before["model"].get("env", [])


@pytest.mark.parametrize("mode", ["standard", "knative"])
def test_a_model_that_does_not_become_ready_is_taken_back_with_the_reason(
    mode: str, request: pytest.FixtureRequest
) -> None:
    release: Release = request.getfixturevalue(mode)
    before = release.predictor()
    refused = release.run("rollout", BROKEN)
    assert refused.returncode == 1
    assert {"standard": "ProgressDeadlineExceeded", "knative": "no such bucket"}[mode] in refused.stderr
    assert release.predictor() == before
    assert release.run("rollback").returncode == 1, "nothing was rolled out that could be taken back"


def test_a_canary_beside_the_model_gets_its_share_and_goes(standard: Release) -> None:
    urls = [f"http://{NAME}-model", f"http://{NAME}-canary-model"]
    before = standard.api.names(standard.namespace)
    tried = standard.run("rollout", "s3://models/2", "--canary", 10)
    assert "serves s3://models/2 to 10 % of the callers" in tried.stdout, tried.stderr
    assert standard.uri() == "s3://models/1"
    assert standard.predictor(f"{NAME}-canary")["model"]["storageUri"] == "s3://models/2"
    assert standard.weights() == dict(zip(urls, (90, 10), strict=True))
    service = standard.api.get("service", f"{NAME}-canary-model", standard.namespace)
    assert service["spec"]["selector"]["serving.kserve.io/inferenceservice"] == f"{NAME}-canary"

    assert standard.run("rollout", "s3://models/2", "--canary", 40).returncode == 0
    assert standard.weights() == dict(zip(urls, (60, 40), strict=True))
    broken = standard.run("rollout", BROKEN, "--canary", 40)
    assert broken.returncode == 1
    assert standard.predictor(f"{NAME}-canary")["model"]["storageUri"] == "s3://models/2"

    back = standard.run("rollback")
    assert "the canary has ended" in back.stdout, back.stderr
    assert standard.weights() is None
    left = {name for name in standard.api.names(standard.namespace) - before if not name.startswith("deployment")}
    assert left == set()


def test_a_canary_is_promoted(standard: Release) -> None:
    assert standard.run("rollout", "s3://models/2", "--canary", 10).returncode == 0
    done = standard.run("rollout", "s3://models/2")
    assert "serves s3://models/2 to all callers, after s3://models/1" in done.stdout, done.stderr
    assert standard.weights() is None
    assert standard.run("rollback").returncode == 0
    assert standard.uri() == "s3://models/1"


def test_a_canary_that_fails_leaves_nothing(standard: Release) -> None:
    refused = standard.run("rollout", BROKEN, "--canary", 10)
    assert refused.returncode == 1
    assert standard.weights() is None
    assert f"inferenceservice.serving.kserve.io/{NAME}-canary" not in standard.api.names(standard.namespace)


def test_helm_takes_over_the_canary_where_its_values_have_it(standard: Release) -> None:
    assert standard.run("rollout", "s3://models/2", "--canary", 10).returncode == 0
    values = "canary.enabled=true,canary.storageUri=s3://models/2,canary.weight=10"
    upgrade = ("upgrade", "release", str(CHART), "-n", standard.namespace, "--reuse-values", "--set", values)
    standard.api.helm(*upgrade)
    assert standard.weights() == {f"http://{NAME}-model": 90, f"http://{NAME}-canary-model": 10}


def test_knative_splits_the_requests_and_goes_back(knative: Release) -> None:
    tried = knative.run("rollout", "s3://models/2", "--canary", 10)
    assert "serves s3://models/2 to 10 % of the requests" in tried.stdout, tried.stderr
    assert (knative.uri(), knative.predictor()["canaryTrafficPercent"]) == ("s3://models/2", 10)
    assert knative.run("rollout", "s3://models/2", "--canary", 50).returncode == 0
    assert knative.predictor()["canaryTrafficPercent"] == 50
    assert "to all callers" in knative.run("rollout", "s3://models/2").stdout
    assert "canaryTrafficPercent" not in knative.predictor()
    assert knative.run("rollout", "s3://models/3", "--canary", 10).returncode == 0
    back = knative.run("rollback")
    assert "serves s3://models/2 to all callers again" in back.stdout, back.stderr
    assert knative.uri() == "s3://models/2"
    assert "canaryTrafficPercent" not in knative.predictor()


def test_ctrl_c_puts_the_model_before_back(api: ApiServer) -> None:
    """Nobody acts on the change here, so that it is still on its way."""
    api.kubectl("create", "namespace", "nobody")
    values = ("--set", "model.storageUri=s3://models/1,autoscaling.class=none")
    api.helm("install", "release", str(CHART), "-n", "nobody", *values)
    release = Release(api, "nobody", None)  # type: ignore[arg-type]
    process = subprocess.Popen(
        release.command("rollout", "s3://models/2"),
        env=release.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while release.uri() == "s3://models/1" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert release.uri() == "s3://models/2"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), error
    assert release.uri() == "s3://models/1"


def test_what_is_wrong_is_said_in_a_sentence(standard: Release, tmp_path: Path) -> None:
    other = [*standard.command("rollout", "s3://models/2")]
    other[other.index(NAME)] = "missing"
    refused = subprocess.run(other, env=standard.environment(), capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "missing" in refused.stderr
    assert "not found" in refused.stderr
    same = standard.run("rollout", "s3://models/1")
    assert same.returncode == 1
    assert "has s3://models/1 already" in same.stderr
    assert standard.run("rollout", "a-folder").returncode == 2
    environment = standard.environment() | {"KUBECONFIG": str(tmp_path / "absent")}
    away = subprocess.run(
        standard.command("rollout", "s3://models/2"), env=environment, capture_output=True, text=True, check=False
    )
    assert away.returncode == 1
    assert "No cluster can be reached" in away.stderr
    assert "Traceback" not in away.stderr
