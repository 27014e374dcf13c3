"""What the chart renders, without a cluster: it is what Kubernetes and KServe take, and what the services read."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from pydantic import TypeAdapter
from sqlalchemy.engine import make_url

from chart import CHART, VALUES, Document, check_by_model, containers, helm, of_kind, pods, render, template, tool
from conftest import REPOSITORY
from model_server import __version__, config
from model_server.config import ROLES, QueueProxySettings

MODELS = {
    "Deployment": "V1Deployment",
    "HorizontalPodAutoscaler": "V2HorizontalPodAutoscaler",
    "InferenceService": "V1beta1InferenceService",
    "Ingress": "V1Ingress",
    "NetworkPolicy": "V1NetworkPolicy",
    "Pod": "V1Pod",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "Secret": "V1Secret",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
    "ServingRuntime": "V1alpha1ServingRuntime",
    "StatefulSet": "V1StatefulSet",
}
WITHOUT_MODEL = {"HTTPRoute", "PodMonitor", "ScaledObject", "ServiceMonitor", "TriggerAuthentication"}
ROLE_OF = {
    "predictor": "predictor",
    "queue-proxy": "queue-proxy",
    "feedback": "feedback",
    "migrate": "queue-proxy",
}
FROM_SECRETS = {"MODEL_SERVER_QUEUE": "amqp://user:password@host/"}
EVERY_VALUES_FILE = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)


@EVERY_VALUES_FILE
def test_lint_finds_nothing(values: Path) -> None:
    linted = helm("lint", "--strict", CHART, "--values", values)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@EVERY_VALUES_FILE
def test_documents_are_what_kubernetes_and_kserve_know(values: Path) -> None:
    """A key that no model knows would be refused, or dropped without a word."""
    for document in render("--values", values):
        if document["kind"] not in WITHOUT_MODEL:
            check_by_model(document, MODELS[document["kind"]])


@EVERY_VALUES_FILE
def test_every_container_is_confined_and_bounded(values: Path) -> None:
    for name, container in containers(render("--values", values)):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for bound in ("requests", "limits"):
            assert container["resources"][bound].keys() >= {"cpu", "memory"}, name


@EVERY_VALUES_FILE
def test_every_server_is_probed(values: Path) -> None:
    for name, pod in pods(render("--values", values)):
        for container in pod["containers"] if not name.startswith("Pod ") else []:
            wanted = {"startupProbe", "livenessProbe", "readinessProbe"}
            if container["name"] == "feedback":  # whose absence is not to take the door away
                wanted.remove("readinessProbe")
            assert container.keys() & {"startupProbe", "livenessProbe", "readinessProbe"} == wanted, name


@EVERY_VALUES_FILE
def test_no_pod_gets_a_token_of_the_cluster(values: Path) -> None:
    documents = render("--values", values)
    specs = [pod for name, pod in pods(documents) if not name.startswith("ServingRuntime")]
    specs += [service["spec"]["predictor"] for service in of_kind(documents, "InferenceService")]
    assert [spec["automountServiceAccountToken"] for spec in specs] == [False] * len(specs)


@EVERY_VALUES_FILE
def test_variables_are_settings_of_the_role(values: Path) -> None:
    for name, container in containers(render("--values", values)):
        role = ROLES.get(ROLE_OF.get((container.get("args") or [""])[0], ""))
        if role is None:
            continue
        variables = {one["name"] for one in container["env"] if one["name"].startswith(config.ENV_PREFIX)}
        known = {config.ENV_PREFIX + setting.upper() for setting in role.model_fields}
        assert variables <= known, name


@EVERY_VALUES_FILE
def test_values_of_variables_are_taken_by_the_settings(values: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, container in containers(render("--values", values)):
        role = ROLES.get(ROLE_OF.get((container.get("args") or [""])[0], ""))
        if role is None:
            continue
        with monkeypatch.context() as environment:
            for one in container["env"]:
                environment.setenv(one["name"], one.get("value", FROM_SECRETS.get(one["name"], "x" * 40)))
            assert config.load(role), name


@pytest.mark.parametrize("component", ["predictor", "queueProxy", "feedback"])
def test_every_setting_can_be_given(component: str) -> None:
    """By `settings`, or by the chart itself, or, if it is secret, by `extraEnv`."""
    role = ROLES[{"queueProxy": "queue-proxy"}.get(component, component)]
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    given = set(schema["definitions"][f"{component}Settings"]["properties"])
    by_chart = {"mode", "model_dir", "model_name", "predictors", "predictor_url", "feedback_url"}
    by_chart |= {"database_url", "image_store", "queue_name"}
    by_chart |= {name for name in role.model_fields if name.endswith(("_host", "_port"))}
    secret = {name for name, field in role.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert given | by_chart | secret >= set(role.model_fields)
    assert not given & (by_chart | secret)


def test_what_is_in_a_role_is_read_by_it() -> None:
    """The settings of values.yaml arrive with their values, whole numbers without Helm's exponent."""
    settings = {"max_body_bytes": 33554432, "cache_seconds": 1.5}
    documents = render("--set-json", f"queueProxy.settings={json.dumps(settings)}")
    environment = variables_of(documents, "queue-proxy")
    assert environment["MODEL_SERVER_MAX_BODY_BYTES"] == "33554432"
    assert environment["MODEL_SERVER_CACHE_SECONDS"] == "1.5"


def variables_of(documents: list[Document], role: str) -> dict[str, str]:
    found = [container for _, container in containers(documents) if container.get("args") == [role]]
    return {one["name"]: one.get("value", "") for one in found[0]["env"]}


def test_the_queue_proxy_finds_the_services_it_is_told(tmp_path: Path) -> None:
    """Each address it gets is a Service of this chart, whose pods carry the label that it selects."""
    documents = render("--values", CHART / "ci" / "standard-canary.yaml")
    given = variables_of(documents, "queue-proxy")["MODEL_SERVER_PREDICTORS"]
    predictors = TypeAdapter(list[dict[str, Any]]).validate_json(given)
    assert [one["weight"] for one in predictors] == [75, 25]
    services = {f"http://{one['metadata']['name']}": one["spec"] for one in of_kind(documents, "Service")}
    served = {one["metadata"]["name"] for one in of_kind(documents, "InferenceService")}
    chosen = {services[one["url"]]["selector"]["serving.kserve.io/inferenceservice"] for one in predictors}
    assert chosen == served


def test_knative_canary_is_a_share_of_one_service() -> None:
    (service,) = of_kind(render("--values", CHART / "ci" / "knative-canary.yaml"), "InferenceService")
    predictor = service["spec"]["predictor"]
    assert (predictor["canaryTrafficPercent"], predictor["model"]["storageUri"]) == (20, "s3://models/flowers/4")
    (runtime,) = of_kind(render("--values", CHART / "ci" / "knative-canary.yaml"), "ServingRuntime")
    (container,) = runtime["spec"]["containers"]
    assert "lifecycle" not in container, "Knative refuses it"
    assert len(container["ports"]) == 1, "Knative routes to one port"


def test_scaling_by_the_queue_asks_the_tables_that_there_are(database_url: str) -> None:
    """KEDA runs these queries with the address in the secret, and takes one number."""
    (scaled,) = of_kind(render("--values", CHART / "ci" / "keda.yaml"), "ScaledObject")
    triggers = [trigger for trigger in scaled["spec"]["triggers"] if trigger["type"] == "postgresql"]
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO predictions (id, status, model, parameters, priority, deadline, created_at) "
            "SELECT gen_random_uuid(), status, 'm', '{}', 3, now(), now() - interval '40 s' "
            "FROM unnest(ARRAY['queued', 'queued', 'running', 'succeeded']) AS status"
        )
        depth, age = (connection.execute(trigger["metadata"]["query"]).fetchone()[0] for trigger in triggers)
    assert (depth, round(age)) == (3, 40)
    (service,) = of_kind(render("--values", CHART / "ci" / "keda.yaml"), "InferenceService")
    assert scaled["spec"]["scaleTargetRef"]["name"] == f"{service['metadata']['name']}-predictor"
    assert service["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "external"


def test_predictor_that_sleeps_is_woken_when_keda_is_taken_away() -> None:
    """No other class scales up from zero."""
    (scaled,) = of_kind(render("--values", CHART / "ci" / "keda.yaml"), "ScaledObject")
    assert scaled["spec"]["advanced"]["restoreToOriginalReplicaCount"] is True


def test_scaling_by_rabbitmq_counts_messages_there_and_wakes_for_what_is_delivered_already(database_url: str) -> None:
    """KEDA sees none of the messages that the queue-proxy holds while the predictor sleeps."""
    documents = render("--values", CHART / "ci" / "everything.yaml")
    (scaled,) = of_kind(documents, "ScaledObject")
    (rabbitmq,) = [trigger for trigger in scaled["spec"]["triggers"] if trigger["type"] == "rabbitmq"]
    assert rabbitmq["metadata"] == {
        "protocol": "amqp",
        "queueName": "pictures",
        "mode": "QueueLength",
        "value": "500",
        "activationValue": "0",
    }
    names = {
        one["metadata"]["name"]: one["spec"]["secretTargetRef"] for one in of_kind(documents, "TriggerAuthentication")
    }
    assert names[rabbitmq["authenticationRef"]["name"]] == [{"parameter": "host", "name": "broker", "key": "address"}]
    query = next(one["metadata"]["query"] for one in scaled["spec"]["triggers"] if one["name"] == "queue-depth")
    with psycopg.connect(database_url) as connection:
        counts = [connection.execute(query).fetchone()[0]]
        connection.execute(
            "INSERT INTO predictions (id, status, model, parameters, priority, deadline) "
            "SELECT gen_random_uuid(), 'queued', 'm', '{}', 3, now() FROM generate_series(1, 3)"
        )
        counts.append(connection.execute(query).fetchone()[0])
    assert counts == [0, 1]


def test_queue_proxy_reaches_the_rabbitmq_that_is_its_queue() -> None:
    documents = render("--values", CHART / "ci" / "everything.yaml")
    (deployment,) = of_kind(documents, "Deployment")
    proxy = next(one for one in deployment["spec"]["template"]["spec"]["containers"] if one["name"] == "queue-proxy")
    given = {one["name"]: one for one in proxy["env"]}
    assert given["MODEL_SERVER_QUEUE"]["valueFrom"]["secretKeyRef"] == {"name": "broker", "key": "address"}
    assert given["MODEL_SERVER_QUEUE_NAME"]["value"] == "pictures"
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(documents, "NetworkPolicy")}
    assert {"ports": [{"port": 5671, "protocol": "TCP"}]} in policies["pictures"]["egress"]


def test_password_of_the_charts_own_postgres_is_made_at_random() -> None:
    secrets = [of_kind(render(), "Secret")[0]["stringData"] for _ in range(2)]
    assert secrets[0]["password"] != secrets[1]["password"]
    assert all(len(secret["password"]) == 40 for secret in secrets)


def test_checksum_changes_with_the_password_and_cannot_be_guessed_by_a_hash() -> None:
    """Whoever may list pods sees it."""

    def checksum(password: str) -> str:
        (deployment,) = of_kind(render("--set", f"postgres.password={password}"), "Deployment")
        return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/database"]

    assert checksum("tulip") == checksum("tulip") != checksum("daisy")
    assert checksum("tulip") not in {hashlib.sha256(text.encode()).hexdigest() for text in ("tulip", "/tulip")}


def test_password_with_every_character_reaches_the_database_whole() -> None:
    password = "p@ss/w:ör d%+?#&\"'"
    (secret,) = of_kind(render("--set-json", f"postgres.password={json.dumps(password)}"), "Secret")
    url = make_url(secret["stringData"]["dsn"])
    assert url.password == secret["stringData"]["password"] == password
    assert url.host == "release-image-classifier-postgres.vision.svc"


def test_image_by_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "a" * 64
    documents = render("--set", f"image.digest={digest},image.tag=x,postgres.image.digest={digest}")
    images = {container["image"] for _, container in containers(documents)}
    assert images == {f"model-server@{digest}", f"postgres@{digest}"}


def test_nobody_but_the_queue_proxy_may_ask_the_predictor_and_postgres() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(render(), "NetworkPolicy")}
    for name in ("release-image-classifier-model", "release-image-classifier-postgres"):
        (rule,) = policies[name]["ingress"]
        (peer,) = rule["from"]
        assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "queue-proxy"
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in policies.values())


def test_selectors_stay_as_they_are_over_releases() -> None:
    """They are immutable: one with a version in it would make each upgrade fail."""
    for document in render():
        if document["kind"] in {"Deployment", "StatefulSet"}:
            labels = document["spec"]["selector"]["matchLabels"]
            assert not [name for name in labels if "version" in name or "chart" in name]
            assert labels.items() <= document["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"autoscaling": {"class": "knative"}}, "autoscaling.class knative needs kserve.mode Knative"),
        ({"kserve": {"mode": "Knative"}}, "set autoscaling.class to knative, not hpa"),
        ({"autoscaling": {"minReplicas": 0}}, "never wakes the predictor"),
        ({"autoscaling": {"minReplicas": 9}}, "minReplicas is above"),
        ({"autoscaling": {"class": "keda", "minReplicas": 0}}, "set model.name"),
        ({"queueProxy": {"autoscaling": {"minReplicas": 9}}}, "queueProxy.autoscaling.minReplicas is above"),
        ({"postgres": {"enabled": False}}, "There is no database"),
        ({"postgres": {"password": "x"}, "database": {"existingSecret": "mine"}}, "exclude each other"),
        ({"canary": {"enabled": True}}, "needs something to try"),
        ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.host"),
        ({"httpRoute": {"enabled": True}}, "needs a gateway"),
        ({"predictor": {"terminationGracePeriodSeconds": 35}}, "must be above 35"),
        ({"queueProxy": {"settings": {"shutdown_grace_seconds": 60}}}, "must be above 65"),
        ({"queueProxy": {"settings": {"limits_url": "redis://r:6379"}}}, "settings.limits_url leads where"),
        ({"queueProxy": {"settings": {"callback_hosts": ["hooks.org"]}}}, "settings.callback_hosts leads where"),
        ({"queueProxy": {"extraEnv": [{"name": "MODEL_SERVER_RESULT_SINK"}]}}, "MODEL_SERVER_RESULT_SINK leads where"),
    ],
)
def test_values_that_do_not_go_together_end_in_a_sentence(tmp_path: Path, values: Document, sentence: str) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    refused = template("--values", tmp_path / "values.yaml")
    assert refused.returncode != 0
    assert sentence in refused.stderr


@pytest.mark.parametrize(
    "value",
    [
        "nonsense=1",
        "queueProxy.nonsense=1",
        "queueProxy.settings.nonsense=1",
        "queueProxy.settings.sync_in_flight=0",
        "queueProxy.settings.sync_in_flight=many",
        "queueProxy.settings.callback_secret=whsec_x",
        "queueProxy.settings.predictor_url=http://elsewhere",
        "autoscaling.class=magic",
        "image.digest=sha256:short",
        "canary.weight=100",
        "model.storageUri=/somewhere",
        "service.port=http",
    ],
)
def test_schema_refuses(value: str) -> None:
    """What is unknown, out of range, secret, or the chart's own."""
    refused = template("--set", value)
    assert refused.returncode != 0
    assert "values don't meet the specifications of the schema" in refused.stderr


def test_version_of_the_application_is_that_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__
    kustomization = yaml.safe_load((REPOSITORY / "manifests" / "kustomization.yaml").read_text(encoding="utf-8"))
    assert kustomization["images"] == [{"name": "model-server", "newTag": __version__}]


def test_what_is_rendered_is_not_stale() -> None:
    tool("helm")
    command = [REPOSITORY / "scripts" / "render", "--check"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr


def test_manifests_hold_no_password_and_work_with_kustomize() -> None:
    command = [tool("kubectl"), "kustomize", REPOSITORY / "manifests"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    assert {document["metadata"]["namespace"] for document in documents} == {"image-classifier"}
    assert not of_kind(documents, "Secret")
    assert len(of_kind(documents, "InferenceService")) == 1


def test_proxy_settings_default_to_what_the_chart_assumes() -> None:
    """validate.yaml computes with this default of shutdown_grace_seconds."""
    assert QueueProxySettings.model_fields["shutdown_grace_seconds"].default == 30
