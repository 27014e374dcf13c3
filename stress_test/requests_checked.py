"""The bodies of each protocol, and what a right reply to them is."""

from __future__ import annotations

import base64
import json
from typing import Any

from photographs import Photograph

JSON = {"Content-Type": "application/json"}


class Wrong(Exception):
    """A reply that is not the right one; says why."""


def v1_base64(*photographs: Photograph) -> bytes:
    instances = [{"b64": base64.b64encode(photograph.content).decode()} for photograph in photographs]
    return json.dumps({"instances": instances}).encode()


def v2(photograph: Photograph) -> bytes:
    data = [base64.b64encode(photograph.content).decode()]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": data}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()


def check_v1(document: Any, photograph: Photograph) -> dict[str, Any]:
    """Return the prediction of a V1 reply or a finished job; raises Wrong."""
    try:
        (prediction,) = document["predictions"]
        check_label(prediction["label"], photograph)
    except (KeyError, TypeError, ValueError):
        raise Wrong(f"not a V1 reply: {str(document)[:200]}") from None
    return dict(prediction)


def check_v2(document: Any, photograph: Photograph) -> None:
    """Raise Wrong unless it is a V2 reply with a right class."""
    try:
        (label,) = document["outputs"][0]["data"]
    except (KeyError, TypeError, ValueError, IndexError):
        raise Wrong(f"not a V2 reply: {str(document)[:200]}") from None
    check_label(label, photograph)


def check_label(label: str, photograph: Photograph) -> None:
    """Raise Wrong unless the class is a right one."""
    if label not in photograph.labels:
        raise Wrong(f"{photograph.name} is {' or '.join(sorted(photograph.labels))}, not {label}")
