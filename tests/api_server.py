"""A real Kubernetes API server with etcd, and nothing else: it checks and keeps objects, and no pod is ever started."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from chart import tool
from conftest import end_process, free_port

TOKEN = "administrator"
CUSTOM = {
    "serving.kserve.io": {"v1beta1": ["InferenceService"], "v1alpha1": ["ServingRuntime"]},
    "keda.sh": {"v1alpha1": ["ScaledObject", "TriggerAuthentication"]},
    "monitoring.coreos.com": {"v1": ["ServiceMonitor", "PodMonitor"]},
    "gateway.networking.k8s.io": {"v1": ["HTTPRoute"]},
}


@dataclass(frozen=True)
class ApiServer:
    kubeconfig: Path

    def kubectl(self, *arguments: str, content: Any = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run([tool("kubectl"), *arguments], content, check=check)

    def helm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run([tool("helm"), *arguments], None, check=check)

    def _run(self, command: list[str], content: Any, *, check: bool) -> subprocess.CompletedProcess[str]:
        given = yaml.safe_dump_all(content) if isinstance(content, list) else content
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig)}
        ended = subprocess.run(
            command, env=environment, input=given, capture_output=True, text=True, timeout=120, check=False
        )
        assert not check or ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(self.kubectl("get", kind, name, "-n", namespace, "-o", "yaml").stdout)
        return found

    def names(self, namespace: str) -> set[str]:
        """Return everything that a release makes, as kind/name."""
        kinds = "deployments,statefulsets,services,secrets,networkpolicies,poddisruptionbudgets,serviceaccounts,"
        kinds += "horizontalpodautoscalers,inferenceservices,servingruntimes,scaledobjects,pods"
        return set(self.kubectl("get", kinds, "-n", namespace, "-o", "name").stdout.split())


@contextlib.contextmanager
def running_api_server(folder: Path) -> Iterator[ApiServer]:
    """Start etcd and kube-apiserver, and make the kinds of KServe, KEDA, Prometheus and the Gateway API known."""
    etcd_port, port = free_port(), free_port()
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    subprocess.run(["openssl", "genrsa", "-out", folder / "key", "2048"], check=True, capture_output=True)
    etcd = [tool("etcd"), "--data-dir", folder / "etcd", "--listen-peer-urls", "http://127.0.0.1:0"]
    etcd += [f"--{kind}-client-urls=http://127.0.0.1:{etcd_port}" for kind in ("listen", "advertise")]
    server = [tool("kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{etcd_port}", f"--secure-port={port}"]
    server += ["--bind-address=127.0.0.1", f"--cert-dir={folder}", f"--token-auth-file={folder}/tokens.csv"]
    server += ["--service-account-issuer=https://localhost", "--service-cluster-ip-range=10.0.0.0/24"]
    server += [f"--service-account-{kind}-file={folder}/key" for kind in ("key", "signing-key")]
    # Nobody makes the accounts that this would wait for.
    server += ["--disable-admission-plugins=ServiceAccount"]
    with _process(etcd, folder / "etcd.log"), _process(server, folder / "kube-apiserver.log") as process:
        _wait_until_ready(f"https://127.0.0.1:{port}", process, folder / "kube-apiserver.log")
        api = ApiServer(_kubeconfig(folder, port))
        api.kubectl("apply", "-f", "-", content=_custom_kinds())
        api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield api


@contextlib.contextmanager
def _process(command: list[Any], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output)
    try:
        yield process
    finally:
        end_process(process)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            if httpx.get(f"{url}/readyz", verify=False, headers=headers).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"the API server is not ready:\n{log.read_text()[-3000:]}")


def _kubeconfig(folder: Path, port: int) -> Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def _custom_kinds() -> list[dict[str, Any]]:
    """Return definitions that take any content: test_chart.py checks that against the models."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definitions = []
    for group, versions in CUSTOM.items():
        for version, kinds in versions.items():
            for kind in kinds:
                plural = f"{kind.lower()}s"
                served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
                served["subresources"] = {"status": {}}
                names = {"kind": kind, "plural": plural, "singular": kind.lower()}
                definitions.append(
                    {
                        "apiVersion": "apiextensions.k8s.io/v1",
                        "kind": "CustomResourceDefinition",
                        "metadata": {
                            "name": f"{plural}.{group}",
                            "annotations": {"api-approved.kubernetes.io": "https://example.com/only-in-tests"},
                        },
                        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
                    }
                )
    return definitions
