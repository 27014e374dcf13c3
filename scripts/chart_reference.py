"""Writes what follows from values.yaml and the settings classes: the chart's values.schema.json and README table.

Example: python scripts/chart_reference.py helm/image-classifier
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from model_server.config import ROLES

TABLE = "<!-- values -->", "<!-- /values -->"
ROLE_OF = {"predictor": "predictor", "queueProxy": "queue-proxy", "feedback": "feedback"}
SET_BY_THE_CHART = {
    "mode",
    "model_dir",
    "model_name",
    "predictors",
    "predictor_url",
    "feedback_url",
    "image_store",
    "queue_name",
}
"""Settings that follow from other values, as hosts and ports do; a secret one comes from a secret, by ``extraEnv``."""
STRING, COUNT = {"type": "string"}, {"type": "integer", "minimum": 1}
STRINGS = {"type": "object", "additionalProperties": STRING}
PERCENT = {"type": "integer", "minimum": 1, "maximum": 100}
DIGEST = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
BY_PATH: dict[str, dict[str, Any]] = {
    "kserve.mode": {"enum": ["Standard", "Knative"]},
    "mode": {"enum": ["accounts", "open"]},
    "model.storageUri": {"type": "string", "pattern": "^([a-z0-9]+://.+)?$"},
    "model.name": {"type": "string", "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$"},
    "images.storageUri": {"type": "string", "pattern": "^(s3://[^/\\s]+(/\\S*)?)?$"},
    "canary.storageUri": {"type": "string", "pattern": "^([a-z0-9]+://.+)?$"},
    "canary.weight": {"type": "integer", "minimum": 1, "maximum": 99},
    "autoscaling.class": {"enum": ["hpa", "keda", "knative", "none"]},
    "autoscaling.minReplicas": {"type": "integer", "minimum": 0},
    "queueProxy.preStopSeconds": {"type": "integer", "minimum": 0},
    "predictor.preStopSeconds": {"type": "integer", "minimum": 0},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "networkPolicy.knativeNamespaces": {"type": "array", "items": STRING, "minItems": 1},
    "httpRoute.hostnames": {"type": "array", "items": STRING},
}
BY_NAME: dict[str, dict[str, Any]] = {
    "digest": DIGEST,
    "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "targetCPUUtilizationPercentage": PERCENT,
    "resources": {
        "type": "object",
        "required": ["requests", "limits"],
        "additionalProperties": False,
        "properties": {
            part: {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
            for part in ("requests", "limits", "claims")
        },
    },
    "affinity": {"type": "object"},
    **dict.fromkeys(["podLabels", "podAnnotations", "nodeSelector", "annotations", "labels"], STRINGS),
}


def schema_of(value: Any, path: str = "") -> dict[str, Any]:
    """Return the JSON schema of a value's place: what its default shows, and what the tables above say."""
    name = path.rpartition(".")[2]
    if name == "settings":
        return {"$ref": f"#/definitions/{path.removesuffix('.settings')}Settings"}
    if known := BY_PATH.get(path) or BY_NAME.get(name):
        return known
    if isinstance(value, dict):
        parts = {key: schema_of(part, f"{path}.{key}".lstrip(".")) for key, part in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": parts}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return COUNT
    return {"type": "array", "items": {"type": "object"}} if isinstance(value, list) else STRING


def settings_schema(role: str) -> dict[str, Any]:
    """Return the schema of a role's settings, less those that the chart sets and those that are secret."""
    settings: type[BaseSettings] = ROLES[role]
    kept = settings.model_json_schema()
    left_out = {name for name, field in settings.model_fields.items() if SecretStr in _types(field.annotation)}
    left_out |= SET_BY_THE_CHART | {name for name in settings.model_fields if name.endswith(("_host", "_port"))}
    parts = {name: _plain(part) for name, part in kept["properties"].items() if name not in left_out}
    return {"type": "object", "additionalProperties": False, "properties": parts}


def _types(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in {"title", "default", "description"}}


def schema(values: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of all values. ``global`` is what Helm adds where the chart is a part of another."""
    whole = schema_of(values)
    whole["properties"]["global"] = {"type": "object"}
    definitions = {f"{component}Settings": settings_schema(role) for component, role in ROLE_OF.items()}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **whole, "definitions": definitions}


def table(text: str) -> str:
    """Return a Markdown table of every value: key, default, and the comment marked ``# --`` above it."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in _explained(text.splitlines(), yaml.safe_load(text)):
        rows.append(f"| `{path}` | `{json.dumps(default, ensure_ascii=False)}` | {meaning} |")
    return "\n".join(rows)


def _explained(lines: list[str], values: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """Walk the lines with the keys that are open at each depth; a value without keys of its own is a row."""
    found: list[tuple[str, Any, str]] = []
    open_keys: list[str] = []
    comment: list[str] = []
    for line in lines:
        bare = line.strip()
        if bare.startswith("# -- "):
            comment = [bare.removeprefix("# -- ")]
        elif bare.startswith("# ") and comment:
            comment.append(bare.removeprefix("# "))
        elif ":" in bare and not bare.startswith("#"):
            depth = (len(line) - len(line.lstrip())) // 2
            open_keys = [*open_keys[:depth], bare.partition(":")[0]]
            value = _at(values, open_keys)
            if value is not None and (not isinstance(value, dict) or not value or comment):
                found.append((".".join(open_keys), value, " ".join(comment)))
            comment = []
    return _without_children(found)


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _without_children(rows: list[tuple[str, Any, str]]) -> list[tuple[str, Any, str]]:
    """Leave out what a row above shows in its default already."""
    kept: list[tuple[str, Any, str]] = []
    for row in rows:
        if not any(row[0].startswith(f"{path}.") for path, _, _ in kept):
            kept.append(row)
    return kept


def main(chart: Path) -> None:
    """Write both files."""
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    written = json.dumps(schema(yaml.safe_load(text)), indent=2)
    (chart / "values.schema.json").write_text(f"{written}\n", encoding="utf-8")
    begin, end = TABLE
    readme = (chart / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(begin)
    after = rest.partition(end)[2]
    (chart / "README.md").write_text(f"{before}{begin}\n{table(text)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
