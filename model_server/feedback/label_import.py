"""Labels from Label Studio as feedback: each annotator is one more judge of what was predicted of a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from model_server.errors import ModelServerError
from model_server.feedback.authors import named_key
from model_server.feedback.label_studio import Annotation
from model_server.feedback.labels import LabelBook
from model_server.store import feedback as store
from model_server.store import labels
from model_server.store.database import Database
from model_server.store.feedback import Entry
from model_server.store.models import Record

AT_ONCE = 500
MOST_PROBLEMS = 100
COMMENT = "From Label Studio"


async def import_annotations(database: Database, annotations: Sequence[Annotation]) -> dict[str, Any]:
    """Keep all annotations that can be kept, or none where the database fails; return what became of them.

    Another annotation of the same annotator and picture replaces the first.
    """
    problems: list[dict[str, Any]] = []
    entries: dict[tuple[Any, Any], Entry] = {}
    book = LabelBook(await labels.known(database))
    async with database.transaction() as connection:
        for start in range(0, len(annotations), AT_ONCE):
            part = annotations[start : start + AT_ONCE]
            rows = await store.judged_predictions(connection, {one.picture for one in part if one.picture})
            about = _by_picture(rows)
            for annotation in part:
                try:
                    found = _entries(annotation, about.get(annotation.picture, []), book)
                except _Problem as problem:
                    problems.append({"task": annotation.task, "reason": str(problem)})
                else:
                    entries |= {(entry.prediction_id, entry.author): entry for entry in found}
        kept = list(entries.values())
        for start in range(0, len(kept), AT_ONCE):
            await store.save(connection, kept[start : start + AT_ONCE])
    return {
        "annotations": len(annotations),
        "imported": len(annotations) - len(problems),
        "feedback": len(kept),
        "skipped": len(problems),
        "problems": problems[:MOST_PROBLEMS],
    }


class _Problem(Exception):
    """Why an annotation is not kept."""


def _by_picture(rows: Iterable[Record]) -> dict[bytes, list[Record]]:
    found: dict[bytes, list[Record]] = defaultdict(list)
    for row in rows:
        found[row.image_sha256].append(row)
    return found


def _entries(annotation: Annotation, about: Sequence[Record], book: LabelBook) -> list[Entry]:
    if annotation.problem:
        raise _Problem(annotation.problem)
    if not about:
        raise _Problem("no feedback is about this picture")
    try:
        for row in about:
            book.require(row.model, row.model_version, annotation.label)
    except ModelServerError as error:
        raise _Problem(str(error)) from None
    return [_entry(annotation, row) for row in about]


def _entry(annotation: Annotation, row: Record) -> Entry:
    return Entry(
        author=named_key("label-studio", annotation.annotator),
        user_id=None,
        is_private=row.is_private,
        prediction_id=row.prediction_id,
        model=row.model,
        model_version=row.model_version,
        predicted_class=row.predicted_class,
        score=row.score,
        correct_class=annotation.label,
        is_right=annotation.label == row.predicted_class,
        comment=COMMENT,
        image_file_name=row.image_file_name,
        image_sha256=row.image_sha256,
        predicted_at=row.predicted_at,
    )
