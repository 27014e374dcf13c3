"""What somebody says about a prediction, from the request to the entry that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from model_server.accounts.caller import Caller
from model_server.errors import Conflict, NotFound, Unprocessable
from model_server.feedback.labels import LabelBook
from model_server.store.feedback import Entry
from model_server.store.models import SUCCEEDED, Record

FIELDS = {
    "score",
    "predicted_class",
    "image_file_name",
    "feedback",
    "prediction_id",
    "correct_class",
    "correct",
    "model",
    "model_version",
}
LONGEST_COMMENT = 2000
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Judgement:
    """A request's fields; None: not given. ``correct`` is the verdict, also by somebody who knows no better class."""

    prediction_id: UUID | None
    score: float | None
    predicted_class: str | None
    image_file_name: str | None
    feedback: str | None
    correct_class: str | None
    correct: bool | None
    model: str | None
    model_version: str | None


@dataclass(frozen=True, slots=True)
class Author:
    """Who judges: a caller, and what tells nameless ones apart."""

    caller: Caller
    key: UUID


def parse(document: Mapping[str, Any]) -> Judgement:
    """Return the fields of a request; raises Unprocessable that names the first wrong one."""
    unknown = sorted(set(document) - FIELDS)
    if unknown:
        raise Unprocessable(f"Unknown field {unknown[0][:64]!r}; allowed: {', '.join(sorted(FIELDS))}.")
    judgement = Judgement(
        prediction_id=_identifier(document),
        score=_score(document),
        predicted_class=_text(document, "predicted_class", LONGEST_NAME, least=1),
        image_file_name=_text(document, "image_file_name", LONGEST_NAME),
        feedback=_text(document, "feedback", LONGEST_COMMENT),
        correct_class=_text(document, "correct_class", LONGEST_NAME, least=1),
        correct=_verdict(document),
        model=_text(document, "model", LONGEST_NAME, least=1),
        model_version=_text(document, "model_version", LONGEST_NAME),
    )
    if judgement.prediction_id is None:
        for name in ("score", "predicted_class", "image_file_name", "feedback"):
            if getattr(judgement, name) is None:
                raise Unprocessable(f'"{name}" is missing; only with "prediction_id" may it be left out.')
    return judgement


def _identifier(document: Mapping[str, Any]) -> UUID | None:
    given = document.get("prediction_id")
    if given is None:
        return None
    try:
        return UUID(given)
    except (ValueError, AttributeError, TypeError):
        raise Unprocessable('"prediction_id" is the id of a prediction, a UUID.') from None


def _score(document: Mapping[str, Any]) -> float | None:
    given = document.get("score")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
        raise Unprocessable('"score" is a number from 0 to 1.')
    return float(given)


def _verdict(document: Mapping[str, Any]) -> bool | None:
    given = document.get("correct")
    if given is not None and not isinstance(given, bool):
        raise Unprocessable('"correct" is true or false.')
    return given


def _text(document: Mapping[str, Any], name: str, longest: int, least: int = 0) -> str | None:
    given = document.get(name)
    if given is None:
        return None
    if not isinstance(given, str) or not least <= len(given) <= longest:
        raise Unprocessable(f'"{name}" is a text of {least} to {longest:,} characters.')
    if "\0" in given or any("\ud800" <= character <= "\udfff" for character in given):
        raise Unprocessable(f'"{name}" holds a character that cannot be kept.')
    return given


def of_prediction(judgement: Judgement, author: Author, row: Record | None, labels: LabelBook) -> Entry:
    """Return the entry about a prediction, which fills in what the request leaves out.

    Raises NotFound for one that is not the author's to see, Conflict while it has no result, and Unprocessable where
    the request contradicts it or names a class that the model does not have.
    """
    if row is None or not author.caller.may_see(row.user_id):
        raise NotFound(f"There is no prediction {judgement.prediction_id}.")
    predicted = _only_result(row)
    label = str(predicted["label"])
    version = row.model_version or ""
    for name, found in (("predicted_class", label), ("model", row.model), ("model_version", version)):
        given = getattr(judgement, name)
        if given is not None and given != found:
            raise Unprocessable(f'"{name}" is {found!r} in this prediction; leave it out, or repeat it.')
    seen = [label, *(str(one["label"]) for one in predicted.get("top") or ())]
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
        score=float(predicted["score"]),
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


def _only_result(row: Record) -> Mapping[str, Any]:
    if row.status != SUCCEEDED:
        raise Conflict(f"The prediction is {row.status}: there is no class to judge.")
    results: Sequence[Mapping[str, Any]] = row.predictions
    if len(results) != 1 or not {"label", "score"} <= set(results[0]):
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
