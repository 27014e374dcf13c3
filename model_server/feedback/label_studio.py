"""Tasks and annotations in the format of Label Studio (https://labelstud.io/guide/task_format)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from model_server.bundle import LONGEST_LABEL
from model_server.documents.document import LooseDocument, read
from model_server.errors import PayloadTooLarge, Unprocessable
from model_server.store.models import Record

FROM_NAME, TO_NAME = "label", "image"
"""Names of ``<Choices>`` and ``<Image>`` in the labelling configuration."""
USERS = "users"
SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
LONGEST_ANNOTATOR = 256
MOST_ANNOTATIONS = 100_000


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


class _Value(LooseDocument):
    choices: list[str] = Field([], fail_fast=True, description="a list of texts")


class _Result(LooseDocument):
    value: _Value = Field(_Value(), description="an object")


class _Person(LooseDocument):
    email: str | None = Field(None, description="a text")
    id: int | str | None = Field(None, description="an integer or a text")


class _Annotation(LooseDocument):
    was_cancelled: bool | None = Field(None, description="true or false")
    completed_by: _Person | int | str | None = Field(None, description="a user")
    result: list[_Result] | None = Field(None, fail_fast=True, description="a list of objects")


class _Data(LooseDocument):
    sha256: str | None = Field(None, description="a text")
    image: str | None = Field(None, description="a text")


class _Task(LooseDocument):
    data: _Data = Field(description="an object")
    annotations: list[_Annotation] | None = Field(None, fail_fast=True, description="a list of objects")


class _Export(LooseDocument):
    tasks: list[_Task] = Field(fail_fast=True, description="an array: Label Studio's export in the format JSON")


def read_annotations(document: object) -> Iterator[Annotation]:
    """Yield the annotations of exported tasks, those that cannot be read with their problem; skipped ones not at all.

    Raises Unprocessable where the document is no list of tasks, and PayloadTooLarge where it has too many annotations.
    """
    tasks = read(_Export, {"tasks": document}, Unprocessable).tasks
    count = sum(len(task.annotations or ()) for task in tasks)
    if count > MOST_ANNOTATIONS:
        raise PayloadTooLarge(f"The export has {count:,} annotations; at most {MOST_ANNOTATIONS:,} are read at once.")
    for number, task in enumerate(tasks):
        yield from _of_task(number, task)


def _of_task(number: int, task: _Task) -> Iterator[Annotation]:
    picture = _picture(task.data)
    for one in task.annotations or ():
        if one.was_cancelled:
            continue
        if picture is None:
            yield Annotation(number, b"", "", "", "its data name no picture of an export, by sha256 or file name")
            continue
        label, problem = _label(one.result or [])
        yield Annotation(number, picture, _annotator(one.completed_by), label, problem)


def _picture(data: _Data) -> bytes | None:
    found = (SHA256.search(text) for text in (data.sha256, data.image) if text)
    return next((bytes.fromhex(one.group()) for one in found if one), None)


def _label(result: list[_Result]) -> tuple[str, str | None]:
    """Return the one class that was chosen, or why there is none."""
    chosen = [choice for part in result for choice in part.value.choices]
    if len(chosen) != 1 or len(chosen[0]) > LONGEST_LABEL:
        return "", "it has not exactly one choice"
    return chosen[0], None


def _annotator(completed_by: _Person | int | str | None) -> str:
    if isinstance(completed_by, _Person):
        completed_by = completed_by.email or completed_by.id
    return str(completed_by)[:LONGEST_ANNOTATOR]
