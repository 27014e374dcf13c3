"""The chart, rendered."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml

from conftest import REPOSITORY

CHART = REPOSITORY / "helm" / "image-classifier"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
TOOLS = REPOSITORY / ".tools" / "bin"
POD_TEMPLATES = {"Deployment", "StatefulSet"}

Document = dict[str, Any]


def tool(name: str) -> str:
    """Return a program; KUBEBUILDER_ASSETS is where setup-envtest puts kube-apiserver, etcd and kubectl."""
    found = shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}:{os.environ.get('KUBEBUILDER_ASSETS', '')}")
    if not found:
        pytest.skip(f"{name} is missing; scripts/bootstrap-tools {name} installs it")
    return found


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [tool("helm"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def template(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return helm("template", "release", CHART, "--namespace", "vision", "--kube-version", "1.34.0", *arguments)


def render(*arguments: str | Path) -> list[Document]:
    rendered = template(*arguments)
    assert rendered.returncode == 0, rendered.stderr
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Yield the name and the pod spec of everything that starts containers; KServe's runtime is the predictor's."""
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] in POD_TEMPLATES:
            yield name, document["spec"]["template"]["spec"]
        elif document["kind"] in {"Pod", "ServingRuntime"}:
            yield name, document["spec"]


def containers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for name, pod in pods(documents):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name} {container['name']}", container


@functools.cache
def kserve_models() -> dict[str, dict[str, str]]:
    """Return the type of each key of each of KServe's models, as its client has them.

    The client runs in a process of its own: it and Triton's register the same protocol buffers.
    """
    program = """
import json, kserve.models
models = {name: model for name, model in vars(kserve.models).items() if hasattr(model, "openapi_types")}
keys = {name: {model.attribute_map[key]: kind for key, kind in model.openapi_types.items()}
        for name, model in models.items()}
print(json.dumps(keys))
"""
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    models: dict[str, dict[str, str]] = json.loads(listed.stdout)
    return models


def check_by_model(value: Any, model: str, path: str = "") -> None:
    """Fail where a value is not what its model in the clients of KServe or Kubernetes takes: a key or a type."""
    if collection := re.fullmatch(r"(?:list|dict)[\[(](?:str, )?(.+)[\])]", model):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            check_by_model(part, collection.group(1), f"{path}.{key}")
    elif names := kserve_models().get(model):
        for key, part in value.items():
            assert key in names, f"{model} has no {path}.{key}"
            check_by_model(part, names[key], f"{path}.{key}")
    elif hasattr(
        kubernetes.client, name := model.removeprefix("K8sIoApiAppsV1").replace("DeploymentS", "V1DeploymentS")
    ):
        known = getattr(kubernetes.client, name).model_validate(value)
        assert known.model_dump(by_alias=True, exclude_none=True, mode="json") == value, path
    else:
        assert isinstance(value, {"str": str, "int": int, "bool": bool}[model]), f"{path}: {value!r} is no {model}"
