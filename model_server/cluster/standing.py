"""How far a rollout is, read from what the cluster says. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]

FAILED_TRANSITIONS = {"BlockedByFailedLoad", "InvalidSpec"}
"""Of ``status.modelStatus.transitionStatus``: KServe does not expect these to pass."""


@dataclass(frozen=True, slots=True)
class Standing:
    """``failure`` is the reason why it will not become ready; ``sentence`` says how far it is."""

    is_ready: bool
    failure: str | None
    sentence: str


def of_deployment(deployment: Document | None, wanted: str | None = None, unwanted: str | None = None) -> Standing:
    """Judge a Deployment's rollout, once its pods mention a model's URI, or, without one, no longer the one before."""
    if deployment is None:
        return Standing(False, None, "waiting for its Deployment")
    status, spec = deployment.get("status") or {}, deployment["spec"]
    if not _is_taken_up(spec["template"], wanted, unwanted):
        return Standing(False, None, "waiting for KServe to take up the change")
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return Standing(False, None, "waiting for pods")
    stuck = next((one for one in status.get("conditions") or () if _is(one, "Progressing", "False")), None)
    if stuck:
        return Standing(False, f"{stuck.get('reason')}: {stuck.get('message')}", "stuck")
    replicas = spec.get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    old = status.get("replicas", 0) - updated
    done = updated == replicas and available >= replicas and old == 0 and not status.get("unavailableReplicas", 0)
    return Standing(done, None, f"{updated} of {replicas} pods are new, {available} are ready, {old} old ones are left")


def of_service(service: Document, deployment: Document | None, uri: str | None, before: str | None) -> Standing:
    """Judge an InferenceService in mode Standard, which is to serve ``uri`` after ``before``: its pods, then itself."""
    pods = of_deployment(deployment, uri, before)
    reason = _failed_model(service) if deployment is None or not _waits_for_take_up(pods) else None
    if pods.failure or reason:
        return Standing(False, reason or pods.failure, pods.sentence)
    return Standing(pods.is_ready and _says_ready(service), None, pods.sentence)


def of_revision(service: Document, before: str | None) -> Standing:
    """Judge an InferenceService in mode Knative; ``before`` is the revision that was the latest before the change."""
    predictor = (service.get("status") or {}).get("components", {}).get("predictor", {})
    created, ready = predictor.get("latestCreatedRevision"), predictor.get("latestReadyRevision")
    if created == before:
        return Standing(False, None, "waiting for KServe to take up the change")
    if reason := _failed_model(service):
        return Standing(False, reason, f"revision {created}")
    sentence = f"waiting for revision {created}" if created != ready else f"revision {created} is ready"
    return Standing(created == ready and _says_ready(service), None, sentence)


def latest_revision(service: Document) -> str | None:
    """Return the name of the revision that was made last."""
    predictor = (service.get("status") or {}).get("components", {}).get("predictor", {})
    name: str | None = predictor.get("latestCreatedRevision")
    return name


def _is_taken_up(template: Document, wanted: str | None, unwanted: str | None) -> bool:
    # Quoted, as s3://models/12 begins like s3://models/1.
    text = json.dumps(template)
    if wanted is not None:
        return json.dumps(wanted) in text
    return unwanted is None or json.dumps(unwanted) not in text


def _waits_for_take_up(pods: Standing) -> bool:
    return pods.sentence.startswith("waiting for KServe")


def _failed_model(service: Document) -> str | None:
    model = (service.get("status") or {}).get("modelStatus") or {}
    if model.get("transitionStatus") not in FAILED_TRANSITIONS:
        return None
    info = model.get("lastFailureInfo") or {}
    return f"{info.get('reason', model['transitionStatus'])}: {info.get('message', 'KServe gives no reason')}"


def _says_ready(service: Document) -> bool:
    return any(_is(one, "Ready", "True") for one in (service.get("status") or {}).get("conditions") or ())


def _is(condition: Document, kind: str, status: str) -> bool:
    return condition.get("type") == kind and condition.get("status") == status
