"""A canary in mode Standard: an InferenceService, a Service, and a weight at the queue-proxy, as the chart has them."""

from __future__ import annotations

import copy
import json
from typing import Any

Document = dict[str, Any]

CONTAINER = "queue-proxy"
PREDICTORS, PREDICTOR_URL = "MODEL_SERVER_PREDICTORS", "MODEL_SERVER_PREDICTOR_URL"
OF_HELM = ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace")
AUTOSCALER = "serving.kserve.io/autoscalerClass"
SCALING = ("scaleMetric", "scaleTarget", "canaryTrafficPercent")


def name_of(stable: str) -> str:
    """Return the name of a canary."""
    return f"{stable}-canary"


def inference_service(stable: Document, model: Document) -> Document:
    """Return the canary's InferenceService: one pod like those of the stable one, with another ``model``.

    It carries Helm's marks, so that a release whose values have the canary takes it over.
    """
    name = name_of(stable["metadata"]["name"])
    document = _copy(stable, name)
    document["metadata"]["annotations"][AUTOSCALER] = "none"
    predictor = document["spec"]["predictor"]
    for key in SCALING:
        predictor.pop(key, None)
    predictor |= {"minReplicas": 1, "maxReplicas": 1, "model": model}
    return document


def service(stable: Document, of: str) -> Document:
    """Return the Service of a canary, from that of the stable model; ``of`` is the stable InferenceService's name."""
    document = _copy(stable, f"{name_of(of)}-model")
    spec = document["spec"]
    ports = [{key: port[key] for key in ("name", "port", "targetPort", "protocol")} for port in spec["ports"]]
    selector = {**spec["selector"], "serving.kserve.io/inferenceservice": name_of(of)}
    return {**document, "spec": {"selector": selector, "ports": ports}}


def weights(name: str, per_cent: int | None) -> Document:
    """Return the change to the queue-proxy's Deployment that gives a canary its share; None: there is none."""
    url = f"http://{name}-model"
    if per_cent is None:
        env: list[Document] = [{"name": PREDICTORS, "$patch": "delete"}, {"name": PREDICTOR_URL, "value": url}]
    else:
        shares = [
            {"url": url, "weight": 100 - per_cent},
            {"url": f"http://{name_of(name)}-model", "weight": per_cent},
        ]
        env = [{"name": PREDICTORS, "value": json.dumps(shares)}]
    return {"spec": {"template": {"spec": {"containers": [{"name": CONTAINER, "env": env}]}}}}


def share(deployment: Document) -> int | None:
    """Return the canary's per cent of the callers, as the queue-proxy's Deployment has it; None: there is none."""
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for one in container.get("env") or ():
            if container["name"] == CONTAINER and one["name"] == PREDICTORS:
                return int(json.loads(one["value"])[-1]["weight"])
    return None


def _copy(document: Document, name: str) -> Document:
    metadata = document["metadata"]
    annotations = metadata.get("annotations") or {}
    kept = {key: value for key, value in annotations.items() if key in OF_HELM or key.startswith("serving.kserve.io/")}
    fresh: Document = {key: copy.deepcopy(document[key]) for key in ("apiVersion", "kind", "spec")}
    fresh["metadata"] = {"name": name, "labels": dict(metadata.get("labels") or {}), "annotations": kept}
    return fresh
