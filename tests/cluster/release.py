"""The installed chart as these tests see it: its objects by the Kubernetes client, its door by a forwarded port."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from chart import tool
from queue_server import IMAGE, photo

INFERENCE_SERVICES = "serving.kserve.io", "v1beta1"
PROBE_IMAGE_COMMAND = (
    "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close(); print('reached')"
)


@dataclass(frozen=True)
class Release:
    """A release in a namespace, and an account that asks it."""

    namespace: str
    name: str
    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def model(self) -> str:
        return httpx.get(f"{self.url}/v1/models", headers=self.headers, timeout=60).json()["models"][0]

    def predict(self, model: str, content: bytes, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.url}/v1/models/{model}:predict"
        return httpx.post(url, content=content, headers={**IMAGE, **self.headers, **given}, timeout=120)

    def submit(self, model: str | None = None) -> str:
        """Queue a photograph unlike any other; return the prediction's id."""
        reply = self.predict(model or self.model(), photo(), Prefer="respond-async")
        assert reply.status_code == 202, reply.text
        return reply.json()["id"]

    def finished(self, identifier: str) -> str:
        """Return the status that a prediction ends with."""
        ends = {"succeeded", "failed", "cancelled"}
        return wait_until(lambda: self.prediction(identifier, wait=20)["status"], in_=ends)

    def prediction(self, identifier: str, wait: int = 0) -> dict[str, Any]:
        headers = {**self.headers, **({"Prefer": f"wait={wait}"} if wait else {})}
        return httpx.get(f"{self.url}/v1/predictions/{identifier}", headers=headers, timeout=120).json()

    def queue(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/v1/queue", headers=self.headers, timeout=60).json()

    def inference_service(self) -> dict[str, Any]:
        api = client.CustomObjectsApi()
        return api.get_namespaced_custom_object(*INFERENCE_SERVICES, self.namespace, "inferenceservices", self.name)

    def update_inference_service(self, patch: dict[str, Any]) -> None:
        api = client.CustomObjectsApi()
        api.patch_namespaced_custom_object(*INFERENCE_SERVICES, self.namespace, "inferenceservices", self.name, patch)

    def predictor_pods(self) -> list[Any]:
        """Return the predictor's pods that are not on their way out."""
        label = f"serving.kserve.io/inferenceservice={self.name}"
        pods = client.CoreV1Api().list_namespaced_pod(self.namespace, label_selector=label).items
        return [pod for pod in pods if pod.metadata.deletion_timestamp is None]

    def queue_proxy_image(self) -> str:
        return (
            client.AppsV1Api()
            .read_namespaced_deployment(self.name, self.namespace)
            .spec.template.spec.containers[0]
            .image
        )

    def reached_by_a_stranger(self, host: str, port: int) -> bool:
        """Whether a pod that is nobody's gets a connection within 5 s."""
        name, api = f"stranger-{uuid.uuid4().hex[:8]}", client.CoreV1Api()
        container = {"name": "stranger", "image": self.queue_proxy_image(), "command": ["python", "-c"]}
        container["args"] = [PROBE_IMAGE_COMMAND, host, str(port)]
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
        api.create_namespaced_pod(self.namespace, {"metadata": {"name": name}, "spec": spec})
        try:
            ended = wait_until(
                lambda: api.read_namespaced_pod(name, self.namespace).status.phase, in_={"Succeeded", "Failed"}
            )
            return ended == "Succeeded"
        finally:
            api.delete_namespaced_pod(name, self.namespace)


def wait_until(look: Callable[[], Any], *, in_: set[Any] | None = None, seconds: float = 300) -> Any:
    """Return what is seen as soon as it is true, or one of ``in_``."""
    deadline = time.monotonic() + seconds
    seen: Any = None
    while time.monotonic() < deadline:
        with contextlib.suppress(ApiException, httpx.TransportError):
            seen = look()
            if seen in in_ if in_ else seen:
                return seen
        time.sleep(1)
    raise AssertionError(f"still {seen!r} after {seconds} s")


@contextlib.contextmanager
def forwarded(namespace: str, service: str) -> Iterator[str]:
    """Forward a free port of this machine to a Service."""
    command = [tool("kubectl"), "--namespace", namespace, "port-forward", f"service/{service}", ":80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            match = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert match, f"kubectl port-forward said {line!r}"
            yield f"http://127.0.0.1:{match.group(1)}"
        finally:
            process.terminate()
