"""What somebody says about a prediction, from the request to the entry that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field

from model_server.accounts.caller import Caller
from model_server.documents import v1_reply
from model_server.documents.document import Document, read
from model_server.documents.v1_reply import Prediction
from model_server.errors import Conflict, NotFound, Unprocessable, shown
from model_server.feedback.labels import LabelBook
from model_server.store.feedback import Entry
from model_server.store.models import SUCCEEDED, Record

LONGEST_COMMENT = 2000
LONGEST_NAME = 255


def _uuid(given: object) -> object:
    return UUID(given) if isinstance(given, str) else given


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
NAME = f"a text of 1 to {LONGEST_NAME} characters"
Short = Annotated[str, Field(max_length=LONGEST_NAME)]
SHORT = f"a text of 0 to {LONGEST_NAME} characters"
IDENTIFIER = "the id of a prediction, a UUID"


class Judgement(Document):
    """A request's fields; None: not given. ``correct`` is the verdict, also by somebody who knows no better class."""

    prediction_id: Annotated[UUID, BeforeValidator(_uuid)] | None = Field(None, description=IDENTIFIER)
    score: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="a number from 0 to 1")
    predicted_class: Name | None = Field(None, description=NAME)
    image_file_name: Short | None = Field(None, description=SHORT)
    feedback: Annotated[str, Field(max_length=LONGEST_COMMENT)] | None = Field(
        None, description=f"a text of 0 to {LONGEST_COMMENT:,} characters"
    )
    correct_class: Name | None = Field(None, description=NAME)
    correct: bool | None = Field(None, description="true or false")
    model: Name | None = Field(None, description=NAME)
    model_version: Short | None = Field(None, description=SHORT)


@dataclass(frozen=True, slots=True)
class Author:
    """Who judges: a caller, and what tells nameless ones apart."""

    caller: Caller
    key: UUID


def parse(document: Mapping[str, Any]) -> Judgement:
    """Return the fields of a request; raises Unprocessable that names the first wrong one."""
    judgement = read(Judgement, document, Unprocessable)
    if judgement.prediction_id is None:
        for name in ("score", "predicted_class", "image_file_name", "feedback"):
            if getattr(judgement, name) is None:
                raise Unprocessable(f'"{name}" is missing; only with "prediction_id" may it be left out.')
    return judgement


def of_prediction(judgement: Judgement, author: Author, row: Record | None, labels: LabelBook) -> Entry:
    """Return the entry about a prediction, which fills in what the request leaves out.

    Raises NotFound for one that is not the author's to see, Conflict while it has no result, and Unprocessable where
    the request contradicts it or names a class that the model does not have.
    """
    if row is None or not author.caller.may_see(row.user_id):
        raise NotFound(f"There is no prediction {judgement.prediction_id}.")
    predicted = _only_result(row)
    label = predicted.label
    version = row.model_version or ""
    for name, found in (("predicted_class", label), ("model", row.model), ("model_version", version)):
        given = getattr(judgement, name)
        if given is not None and given != found:
            raise Unprocessable(f'"{name}" is {shown(found)} in this prediction; leave it out, or repeat it.')
    seen = {label, *(one.label for one in predicted.ranked)}
    correct_class, is_right = _decide(judgement, label)
    if correct_class not in {None, *seen}:
        labels.require(row.model, version, str(correct_class))
    return Entry(
        author=author.key,
        user_id=author.caller.user_id,
        is_private=author.caller.user_id is not None or row.user_id is not None,
        prediction_id=row.id,
        model=row.model,
        model_version=version,
        predicted_class=label,
        score=predicted.score,
        correct_class=correct_class,
        is_right=is_right,
        comment=judgement.feedback or "",
        image_file_name=judgement.image_file_name or "",
        image_sha256=row.image_sha256,
        predicted_at=row.finished_at,
    )


def of_words(judgement: Judgement, author: Author, labels: LabelBook) -> Entry:
    """Return the entry about a prediction that was not kept, such as a synchronous one; raises Unprocessable."""
    predicted, score = str(judgement.predicted_class), judgement.score or 0.0
    model, version = labels.resolve(judgement.model, judgement.model_version)
    correct_class, is_right = _decide(judgement, predicted)
    for name in {predicted, correct_class} - {None}:
        labels.require(model, version, str(name))
    return Entry(
        author=author.key,
        user_id=author.caller.user_id,
        is_private=author.caller.user_id is not None,
        prediction_id=None,
        model=model,
        model_version=version,
        predicted_class=predicted,
        score=score,
        correct_class=correct_class,
        is_right=is_right,
        comment=judgement.feedback or "",
        image_file_name=judgement.image_file_name or "",
        image_sha256=None,
        predicted_at=None,
    )


def _only_result(row: Record) -> Prediction:
    if row.status != SUCCEEDED:
        raise Conflict(f"The prediction is {row.status}: there is no class to judge.")
    results = v1_reply.predictions(row.predictions)
    if results is None or len(results) != 1:
        raise Unprocessable("Feedback is about a prediction of one image; this one has several, or another shape.")
    return results[0]


def _decide(judgement: Judgement, predicted: str) -> tuple[str | None, bool | None]:
    """Return the class that is right, as far as it is known, and whether it is the predicted one."""
    named, verdict = judgement.correct_class, judgement.correct
    if named is None:
        return (predicted if verdict else None), verdict
    is_right = named == predicted
    if verdict is not None and verdict != is_right:
        raise Unprocessable('"correct" contradicts "correct_class"; one of them is enough.')
    return named, is_right
