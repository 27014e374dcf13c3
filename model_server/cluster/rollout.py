"""A model into service on a cluster, or back: change, watch, and put back what does not become ready."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from model_server.cluster import canary, standing
from model_server.cluster.api import DEPLOYMENT, INFERENCE_SERVICE, SERVICE, STRATEGIC, Cluster, Document
from model_server.cluster.standing import Standing
from model_server.errors import Conflict, InvalidInput

MODE = "serving.kserve.io/deploymentMode"
BEFORE = "model-server/storage-uris-before"
"""Annotation: the URIs that can be gone back to, as a JSON list; null: the model in the image."""
MOST = 20
MODEL_DIR = {"name": "MODEL_SERVER_MODEL_DIR", "value": "/mnt/models"}
LOOK_SECONDS = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rollout:
    """The release whose InferenceService and queue-proxy are called ``name``."""

    cluster: Cluster
    name: str
    say: Say
    timeout_seconds: float

    def roll_out(self, uri: str, per_cent: int | None) -> str:
        """Put the model at ``uri`` into service; raises Conflict with the reason where it does not become ready."""
        service = self._service()
        if uri == _uri(service):
            if service["spec"]["predictor"].get("canaryTrafficPercent") is not None:
                return self._share_requests(uri, per_cent)
            raise Conflict(f"{self.name} has {uri} already; pods are only made anew where the URI changes.")
        if _is_standard(service):
            return self._try_canary(service, uri, per_cent) if per_cent else self._replace(service, uri)
        return self._new_revision(service, uri, per_cent)

    def roll_back(self) -> str:
        """End the canary, or else go back to the model before; raises Conflict where there is none."""
        service = self._service()
        if _is_standard(service) and self.cluster.find(INFERENCE_SERVICE, canary.name_of(self.name)):
            self._end_canary()
            return f"{self.name} serves {_told(_uri(service))} to all callers again; the canary has ended."
        before = _before(service)
        if not before:
            raise Conflict(f"{self.name} has nothing to go back to: no rollout was made here.")
        change = _change(service, before[-1], before[:-1])
        if _is_standard(service):
            self._carry(service, change, before[-1])
        else:
            # Meanwhile the last revision that had all callers has them, and not the one that is given up.
            share = None if service["spec"]["predictor"].get("canaryTrafficPercent") is None else 0
            change["spec"]["predictor"]["canaryTrafficPercent"] = share
            self._carry(service, change, before[-1])
            self.cluster.patch(INFERENCE_SERVICE, self.name, {"spec": {"predictor": {"canaryTrafficPercent": None}}})
        return f"{self.name} serves {_told(before[-1])} to all callers again."

    def _service(self) -> Document:
        service = self.cluster.get(INFERENCE_SERVICE, self.name)
        if "model" not in service["spec"]["predictor"]:
            raise InvalidInput(f"{self.name} names no model by a storageUri: it is none of this chart's.")
        return service

    def _replace(self, service: Document, uri: str) -> str:
        """Let pods with the new model take the place of the others, each once it is ready."""
        self._carry(service, _change(service, uri, _and_now(service)), uri)
        if self.cluster.find(INFERENCE_SERVICE, canary.name_of(self.name)):
            self._end_canary()
        return f"{self.name} serves {uri} to all callers, after {_told(_uri(service))}."

    def _new_revision(self, service: Document, uri: str, per_cent: int | None) -> str:
        change = _change(service, uri, _and_now(service))
        change["spec"]["predictor"]["canaryTrafficPercent"] = per_cent
        self._carry(service, change, uri)
        share = f"{per_cent} % of the requests" if per_cent else "all callers"
        return f"{self.name} serves {uri} to {share}, after {_told(_uri(service))}."

    def _share_requests(self, uri: str, per_cent: int | None) -> str:
        """Give a revision that is a canary already another share, in mode Knative."""
        change = {"spec": {"predictor": {"canaryTrafficPercent": per_cent}}}
        self.cluster.patch(INFERENCE_SERVICE, self.name, change)
        return f"{self.name} serves {uri} to {f'{per_cent} % of the requests' if per_cent else 'all callers'}."

    def _carry(self, service: Document, change: Document, uri: str | None) -> None:
        """Make a change to the stable InferenceService; whatever ends it before it is ready takes it back."""
        revision = standing.latest_revision(service)
        self.say(f"Asking {self.name} for {_told(uri)}.")
        self.cluster.patch(INFERENCE_SERVICE, self.name, change)
        try:
            if _is_standard(service):
                self._until(lambda: self._standing(self.name, uri, _uri(service)))
            else:
                self._until(lambda: standing.of_revision(self.cluster.get(INFERENCE_SERVICE, self.name), revision))
        except BaseException:
            self.say(f"Putting {_told(_uri(service))} back.")
            self.cluster.patch(INFERENCE_SERVICE, self.name, _restored(service))
            raise

    def _try_canary(self, stable: Document, uri: str, per_cent: int) -> str:
        name, model = canary.name_of(self.name), _change(stable, uri, [])["spec"]["predictor"]["model"]
        present = self.cluster.find(INFERENCE_SERVICE, name)
        self.say(f"Starting {name} with {uri}.")
        if present is None:
            whole = {**stable["spec"]["predictor"]["model"], **model}
            self.cluster.create(INFERENCE_SERVICE, canary.inference_service(stable, whole))
        else:
            self.cluster.patch(INFERENCE_SERVICE, name, {"spec": {"predictor": {"model": model}}})
        share = canary.share(self.cluster.get(DEPLOYMENT, self.name))
        try:
            self._until(lambda: self._standing(name, uri, None))
            if self.cluster.find(SERVICE, f"{name}-model") is None:
                of_stable = self.cluster.get(SERVICE, f"{self.name}-model")
                self.cluster.create(SERVICE, canary.service(of_stable, self.name))
            self._weigh(per_cent)
        except BaseException:
            self.say("Putting back what was there before.")
            self.cluster.patch(DEPLOYMENT, self.name, canary.weights(self.name, share), STRATEGIC)
            if present is None:
                self._remove_canary()
            else:
                self.cluster.patch(INFERENCE_SERVICE, name, _restored(present))
            raise
        return f"{name} serves {uri} to {per_cent} % of the callers, {self.name} {_told(_uri(stable))} to the others."

    def _end_canary(self) -> None:
        """Send nobody there any more, and then remove it."""
        self._weigh(None)
        self._remove_canary()

    def _remove_canary(self) -> None:
        name = canary.name_of(self.name)
        self.say(f"Ending {name}.")
        self.cluster.delete(INFERENCE_SERVICE, name)
        self.cluster.delete(SERVICE, f"{name}-model")

    def _weigh(self, per_cent: int | None) -> None:
        self.say("Telling the queue-proxy, whose pods take turns.")
        self.cluster.patch(DEPLOYMENT, self.name, canary.weights(self.name, per_cent), STRATEGIC)
        self._until(lambda: standing.of_deployment(self.cluster.get(DEPLOYMENT, self.name)))

    def _standing(self, name: str, uri: str | None, before: str | None) -> Standing:
        service = self.cluster.get(INFERENCE_SERVICE, name)
        return standing.of_service(service, self.cluster.find(DEPLOYMENT, f"{name}-predictor"), uri, before)

    def _until(self, look: Callable[[], Standing]) -> None:
        """Wait until it is ready, saying what changes; raises Conflict with the reason why it does not become so."""
        deadline = time.monotonic() + self.timeout_seconds
        said = ""
        while not (now := look()).is_ready:
            if now.failure:
                raise Conflict(f"{self.name} does not become ready: {now.failure}")
            if now.sentence != said:
                said = now.sentence
                self.say(f"{said[0].upper()}{said[1:]}.")
            if time.monotonic() > deadline:
                raise Conflict(
                    f"{self.name} is not ready after {self.timeout_seconds:g} s: {now.sentence}. The log of a pod that "
                    "is not ready says why: kubectl logs -c kserve-container."
                )
            time.sleep(LOOK_SECONDS)


def _is_standard(service: Document) -> bool:
    mode = (service["metadata"].get("annotations") or {}).get(MODE, "Standard")
    return mode in {"Standard", "RawDeployment"}


def _uri(service: Document) -> str | None:
    uri: str | None = service["spec"]["predictor"]["model"].get("storageUri")
    return uri


def _before(service: Document) -> list[str | None]:
    kept: list[str | None] = json.loads((service["metadata"].get("annotations") or {}).get(BEFORE, "[]"))
    return kept


def _and_now(service: Document) -> list[str | None]:
    """Return what can be gone back to once another model is in service; a canary's revision is none of it."""
    if service["spec"]["predictor"].get("canaryTrafficPercent") is not None:
        return _before(service)
    return [*_before(service), _uri(service)][-MOST:]


def _change(service: Document, uri: str | None, before: list[str | None]) -> Document:
    """Return the merge patch that puts the model at ``uri`` into service; None: the one in the image."""
    env = [one for one in service["spec"]["predictor"]["model"].get("env") or () if one["name"] != MODEL_DIR["name"]]
    model = {"storageUri": uri, "env": [*env, MODEL_DIR] if uri else env}
    annotations = {BEFORE: json.dumps(before) if before else None}
    return {"metadata": {"annotations": annotations}, "spec": {"predictor": {"model": model}}}


def _restored(service: Document) -> Document:
    """Return the merge patch that makes an InferenceService what it was."""
    predictor = service["spec"]["predictor"]
    model = {"storageUri": _uri(service), "env": predictor["model"].get("env")}
    annotations = {BEFORE: (service["metadata"].get("annotations") or {}).get(BEFORE)}
    share = predictor.get("canaryTrafficPercent")
    return {
        "metadata": {"annotations": annotations},
        "spec": {"predictor": {"model": model, "canaryTrafficPercent": share}},
    }


def _told(uri: str | None) -> str:
    return uri or "the model in the image"
