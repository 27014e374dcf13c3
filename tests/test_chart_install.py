"""The chart on a real API server: it is admitted, upgraded, rolled back and removed. No pod runs there."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_server import ApiServer, running_api_server
from chart import CHART, VALUES, Document, of_kind, pods, render
from conftest import REPOSITORY

MANIFESTS = sorted(path.parent for path in (REPOSITORY / "manifests").glob("*/queue-proxy.yaml"))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture
def namespace(api: ApiServer, request: pytest.FixtureRequest) -> str:
    """Return a namespace that takes only pods of the Pod Security Standard `restricted`."""
    name = f"test-{abs(hash(request.node.name)):x}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    api.kubectl("apply", "-f", "-", content=[document])
    return name


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_it_is_installed_without_a_warning(api: ApiServer, namespace: str, values: Path) -> None:
    """The API server knows every field, and finds every pod template to be `restricted`."""
    installed = api.helm("install", "release", str(CHART), "-n", namespace, "--values", str(values))
    assert "STATUS: deployed" in installed.stdout
    assert "warn" not in installed.stderr.lower(), installed.stderr
    strict = api.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", content=render("--values", values)
    )
    assert "warn" not in strict.stderr.lower().replace("warning: resource", ""), strict.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_pod_is_admitted_as_restricted(api: ApiServer, namespace: str, values: Path) -> None:
    """Those of the predictor too, as KServe makes them of runtime and service."""
    documents = render("--values", values)
    service = of_kind(documents, "InferenceService")[0]["spec"]["predictor"]
    for number, (name, spec) in enumerate(pods(documents)):
        whole: Document = {key: part for key, part in spec.items() if key not in KSERVE_ONLY}
        if name.startswith("ServingRuntime"):
            whole["automountServiceAccountToken"] = service["automountServiceAccountToken"]
        if name.startswith("StatefulSet"):
            whole["volumes"] = [*whole["volumes"], {"name": "data", "emptyDir": {}}]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": whole}
        api.kubectl("create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", content=[pod])


KSERVE_ONLY = {"multiModel", "protocolVersions", "supportedModelFormats"}


def test_password_outlives_upgrades_and_rollbacks(api: ApiServer, namespace: str) -> None:
    """A password that changed would lock everyone out of the database, which keeps the one it was made with."""

    def password() -> str:
        secret = api.get("secret", "release-image-classifier-database", namespace)
        return base64.b64decode(secret["data"]["password"]).decode()

    api.helm("install", "release", str(CHART), "-n", namespace)
    first = password()
    for values in ("keda", "standard-canary", "default"):
        api.helm("upgrade", "release", str(CHART), "-n", namespace, "--values", str(CHART / "ci" / f"{values}.yaml"))
        assert password() == first
    api.helm("rollback", "release", "2", "-n", namespace)
    assert password() == first
    assert "scaledobject.keda.sh/release-image-classifier-model" in api.names(namespace)


def test_a_canary_comes_and_goes_by_upgrades(api: ApiServer, namespace: str) -> None:
    canary = "inferenceservice.serving.kserve.io/release-image-classifier-canary"
    api.helm("install", "release", str(CHART), "-n", namespace)
    assert canary not in api.names(namespace)
    upgrade = ["upgrade", "release", str(CHART), "-n", namespace]
    api.helm(*upgrade, "--values", str(CHART / "ci" / "standard-canary.yaml"))
    assert canary in api.names(namespace)
    api.helm(*upgrade, "--reset-values")
    assert canary not in api.names(namespace)


def test_the_mode_cannot_be_changed_by_an_upgrade(api: ApiServer, namespace: str) -> None:
    api.helm("install", "release", str(CHART), "-n", namespace)
    knative = ["--set", "kserve.mode=Knative,autoscaling.class=knative"]
    refused = api.helm("upgrade", "release", str(CHART), "-n", namespace, *knative, check=False)
    assert refused.returncode != 0
    assert "KServe cannot change it to Knative" in refused.stderr


def triggers(api: ApiServer, namespace: str) -> set[str]:
    scaled = api.get("scaledobject", "release-image-classifier-model", namespace)
    return {trigger["type"] for trigger in scaled["spec"]["triggers"]}


def predictor_of_kserve(kind: str, **spec: Any) -> Document:
    version = {"Deployment": "apps/v1", "HorizontalPodAutoscaler": "autoscaling/v2"}[kind]
    metadata = {"name": "release-image-classifier-predictor"}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def test_keda_gets_a_cpu_trigger_once_its_deployment_is_there(api: ApiServer, namespace: str) -> None:
    """KEDA's webhook looks for the Deployment of such a trigger, and without it refuses the installation."""
    values = [str(CHART), "-n", namespace, "--values", str(CHART / "ci" / "keda.yaml")]
    api.helm("install", "release", *values)
    assert triggers(api, namespace) == {"postgresql"}
    labels = {"app": "predictor"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "kserve-container", "image": "x"}]}}
    made = predictor_of_kserve("Deployment", selector={"matchLabels": labels}, template=template)
    api.kubectl("apply", "-n", namespace, "-f", "-", content=[made])
    api.helm("upgrade", "release", *values)
    assert triggers(api, namespace) == {"postgresql", "cpu"}


def test_the_way_from_hpa_to_keda_is_named(api: ApiServer, namespace: str) -> None:
    """KEDA's webhook refuses a Deployment that KServe's autoscaler still has, and the upgrade would end half done."""
    api.helm("install", "release", str(CHART), "-n", namespace)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "release-image-classifier-predictor"}
    made = predictor_of_kserve("HorizontalPodAutoscaler", scaleTargetRef=target, maxReplicas=4)
    api.kubectl("apply", "-n", namespace, "-f", "-", content=[made])
    upgrade = ["upgrade", "release", str(CHART), "-n", namespace, "--values", str(CHART / "ci" / "keda.yaml")]
    refused = api.helm(*upgrade, check=False)
    assert refused.returncode != 0
    assert "upgrade to autoscaling.class none first" in refused.stderr


def test_uninstalling_leaves_nothing(api: ApiServer, namespace: str) -> None:
    """The volume is the StatefulSet controller's, which is not here."""
    before = api.names(namespace)
    api.helm("install", "release", str(CHART), "-n", namespace, "--values", str(CHART / "ci" / "standard-canary.yaml"))
    assert api.names(namespace) > before
    api.helm("uninstall", "release", "-n", namespace)
    assert api.names(namespace) == before


@pytest.mark.parametrize("folder", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_applied_as_the_readme_says(api: ApiServer, namespace: str, folder: Path) -> None:
    applied = api.kubectl("apply", "--validate=strict", "-n", namespace, "-f", str(folder))
    assert "warn" not in applied.stderr.lower(), applied.stderr
    assert "deployment.apps/image-classifier created" in applied.stdout


def test_manifests_are_applied_by_kustomize(api: ApiServer, namespace: str) -> None:
    """Into the namespace that kustomization.yaml names."""
    api.kubectl("create", "namespace", "image-classifier")
    applied = api.kubectl("apply", "--validate=strict", "-k", str(REPOSITORY / "manifests"))
    assert "inferenceservice.serving.kserve.io/image-classifier created" in applied.stdout
    kustomized = api.get("deployment", "image-classifier", "image-classifier")
    assert yaml.safe_dump(kustomized).count("model-server:0.1.0") >= 2
