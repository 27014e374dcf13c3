"""Tasks and annotations in the format of Label Studio (https://labelstud.io/guide/task_format)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model_server.errors import Unprocessable
from model_server.store.models import Record

FROM_NAME, TO_NAME = "label", "image"
"""Names of ``<Choices>`` and ``<Image>`` in the labelling configuration."""
USERS = "users"
SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
LONGEST_CLASS = 256


@dataclass(frozen=True, slots=True)
class Annotation:
    """The class that one annotator chose for a picture; ``problem`` says why there is none."""

    task: int
    picture: bytes
    annotator: str
    label: str
    problem: str | None = None


def task(row: Record, image: str) -> dict[str, Any]:
    """Return the task about a picture, with what the model and the users said as predictions.

    Users are not annotations, so that what comes back in them is the annotators' own.
    """
    said = [_prediction(f"{row.model} {row.model_version}".strip(), row.predicted_class, row.score)]
    if row.label is not None:
        said.append(_prediction(USERS, row.label, row.votes / row.judges))
    data = {
        TO_NAME: image,
        "sha256": row.image_sha256.hex(),
        "model": row.model,
        "model_version": row.model_version,
        "predicted_class": row.predicted_class,
    }
    return {"data": data, "predictions": said}


def _prediction(version: str, label: str, score: float) -> dict[str, Any]:
    choice = {"from_name": FROM_NAME, "to_name": TO_NAME, "type": "choices", "value": {"choices": [label]}}
    return {"model_version": version, "score": score, "result": [choice]}


def read_annotations(document: object) -> Iterator[Annotation]:
    """Yield the annotations of exported tasks, those that cannot be read with their problem; skipped ones not at all.

    Raises Unprocessable where the document is no list of tasks.
    """
    if not isinstance(document, list):
        raise Unprocessable("The body is a JSON array of tasks: Label Studio's export in the format JSON.")
    for number, one in enumerate(document):
        yield from _of_task(number, one)


def _of_task(number: int, task: object) -> Iterator[Annotation]:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(task, dict) or not isinstance(data, dict):
        raise Unprocessable(f'Task {number} has no "data": Label Studio\'s export in the format JSON is read.')
    picture = _picture(data)
    for one in task.get("annotations") or ():
        if not isinstance(one, dict):
            raise Unprocessable(f"Task {number} has an annotation that is no object.")
        if one.get("was_cancelled"):
            continue
        if picture is None:
            yield Annotation(number, b"", "", "", "its data name no picture of an export, by sha256 or file name")
            continue
        label, problem = _label(one.get("result"))
        yield Annotation(number, picture, _annotator(one.get("completed_by")), label, problem)


def _picture(data: dict[str, Any]) -> bytes | None:
    for key in ("sha256", TO_NAME):
        found = SHA256.search(data[key]) if isinstance(data.get(key), str) else None
        if found:
            return bytes.fromhex(found.group())
    return None


def _label(result: object) -> tuple[str, str | None]:
    """Return the one class that was chosen, or why there is none."""
    chosen: list[Any] = []
    for part in result if isinstance(result, list) else ():
        value = part.get("value") if isinstance(part, dict) else None
        if isinstance(value, dict) and isinstance(value.get("choices"), list):
            chosen += value["choices"]
    if len(chosen) != 1 or not isinstance(chosen[0], str) or len(chosen[0]) > LONGEST_CLASS:
        return "", "it has not exactly one choice"
    return chosen[0], None


def _annotator(completed_by: object) -> str:
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return str(completed_by)[:LONGEST_CLASS]
