"""The Kubernetes API, as far as a rollout needs it: objects as plain dictionaries, its errors in our words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import config
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from urllib3.exceptions import HTTPError

from model_server.errors import Forbidden, InvalidInput, NotFound, Unavailable

Document = dict[str, Any]

INFERENCE_SERVICE = "serving.kserve.io/v1beta1", "InferenceService"
DEPLOYMENT = "apps/v1", "Deployment"
SERVICE = "v1", "Service"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
SECONDS = 30
"""Longest time for one answer."""

Kind = tuple[str, str]


class Cluster:
    """One namespace, reached as kubectl reaches it, or from inside by the pod's account.

    Every method raises Unavailable, Forbidden or InvalidInput with what the API server says.
    """

    def __init__(self, context: str | None, namespace: str | None) -> None:
        try:
            if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
                config.load_incluster_config()
                client, own = None, None
            else:
                client = config.new_client_from_config(context=context)
                own = _own_namespace(context)
        except (ConfigException, OSError) as error:
            raise InvalidInput(f"No cluster can be reached: {error}") from None
        self.namespace = namespace or own or "default"
        with _in_our_words("the API"):
            from kubernetes.client import ApiClient

            self._client = DynamicClient(client or ApiClient())

    def find(self, kind: Kind, name: str) -> Document | None:
        """Return an object, None where it is not there."""
        try:
            return self.get(kind, name)
        except NotFound:
            return None

    def get(self, kind: Kind, name: str) -> Document:
        """Return an object; raises NotFound."""
        with _in_our_words(f"{kind[1]} {self.namespace}/{name}"):
            found: Document = self._resource(kind).get(name=name, namespace=self.namespace, **WITHIN).to_dict()
            return found

    def patch(self, kind: Kind, name: str, change: Document, content_type: str = MERGE) -> Document:
        """Change an object and return it; raises NotFound."""
        with _in_our_words(f"{kind[1]} {self.namespace}/{name}"):
            resource = self._resource(kind)
            changed: Document = resource.patch(
                name=name, namespace=self.namespace, body=change, content_type=content_type, **WITHIN
            ).to_dict()
            return changed

    def create(self, kind: Kind, document: Document) -> None:
        """Make an object."""
        with _in_our_words(f"{kind[1]} {self.namespace}/{document['metadata']['name']}"):
            self._resource(kind).create(body=document, namespace=self.namespace, **WITHIN)

    def delete(self, kind: Kind, name: str) -> None:
        """Remove an object, and what it has made; one that is not there is as good as removed."""
        try:
            with _in_our_words(f"{kind[1]} {self.namespace}/{name}"):
                self._resource(kind).delete(name=name, namespace=self.namespace, **WITHIN)
        except NotFound:
            return

    def _resource(self, kind: Kind) -> Any:
        return self._client.resources.get(api_version=kind[0], kind=kind[1])


WITHIN = {"_request_timeout": SECONDS}


def _own_namespace(context: str | None) -> str | None:
    contexts, active = config.list_kube_config_contexts()
    chosen = next((one for one in contexts if one["name"] == context), active)
    namespace: str | None = chosen["context"].get("namespace")
    return namespace


@contextmanager
def _in_our_words(what: str) -> Iterator[None]:
    try:
        yield
    except ResourceNotFoundError:
        raise NotFound(f"The cluster has no kind for {what}: is KServe installed?") from None
    except ApiException as error:
        sentence = f"{what}: {_message(error)}"
        kinds = {403: Forbidden, 404: NotFound, 400: InvalidInput, 409: InvalidInput, 422: InvalidInput}
        raise kinds.get(error.status or 0, Unavailable)(sentence) from None
    except HTTPError as error:
        raise Unavailable(f"The cluster does not answer: {error}") from None


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
