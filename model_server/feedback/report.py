"""The report, from what was counted to what is said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from model_server.feedback.statistics import Agreement, Proportion
from model_server.store.models import Record
from model_server.store.report import Figures, Scope

PLACES = 4
CAUTION = (
    "Accuracy is that of the predictions that users judged. They judge mistakes more often than successes, so it says "
    "more about differences between versions and classes than about the model as a whole."
)
Key = tuple[str, str]


@dataclass(slots=True)
class _Count:
    """Predictions, and the verdicts on those that were judged; a tie between judges is ``disputed``."""

    predictions: int = 0
    right: int = 0
    wrong: int = 0
    disputed: int = 0

    def add(self, row: Record) -> None:
        self.right += row.right
        self.wrong += row.wrong
        self.disputed += row.disputed

    def document(self) -> dict[str, Any]:
        judged = self.right + self.wrong + self.disputed
        return {
            "predictions": self.predictions,
            "judged": _proportion(judged, max(self.predictions, judged)),
            "right": self.right,
            "wrong": self.wrong,
            "disputed": self.disputed,
            "accuracy": _proportion(self.right, self.right + self.wrong),
        }


@dataclass(slots=True)
class _Version:
    total: _Count = field(default_factory=_Count)
    days: dict[date, _Count] = field(default_factory=lambda: defaultdict(_Count))
    pairs: dict[tuple[str, str | None], int] = field(default_factory=lambda: defaultdict(int))
    unlinked: Record | None = None


def document(figures: Figures, scope: Scope, picture: Callable[[Record], dict[str, Any]]) -> dict[str, Any]:
    """Return the report as JSON; ``picture`` renders one mistake."""
    versions = _versions(figures)
    return {
        "model": scope.model,
        "version": scope.version,
        "from": _day(scope.first),
        "to": _day(scope.last),
        "caution": CAUTION,
        "versions": [
            _version(key, versions[key]) for key in sorted(versions, key=lambda key: _in_time(key, versions[key]))
        ],
        "agreement": _agreement(figures.agreement),
        "mistakes": [picture(row) for row in figures.mistakes],
    }


def _in_time(key: Key, version: _Version) -> tuple[str, date, str]:
    """Return what puts a model's versions in the order in which they appeared."""
    model, name = key
    return model, min(version.days, default=date.max), name


def _versions(figures: Figures) -> dict[Key, _Version]:
    versions: dict[Key, _Version] = defaultdict(_Version)
    for row in figures.counts:
        version = versions[row.model, row.version]
        version.total.predictions += row.predictions
        version.days[row.day].predictions += row.predictions
    for row in figures.verdicts:
        version = versions[row.model, row.version]
        if row.is_day:
            version.total.add(row)
            version.days[row.day].add(row)
        elif judged := row.right + row.wrong:
            version.pairs[row.predicted, row.correct] += judged
    for row in figures.unlinked:
        versions[row.model, row.version].unlinked = row
    return versions


def _version(key: Key, version: _Version) -> dict[str, Any]:
    model, name = key
    unlinked = version.unlinked
    return {
        "model": model,
        "version": name,
        **version.total.document(),
        "days": [{"day": _day(day), **version.days[day].document()} for day in sorted(version.days)],
        "confusion": [
            {"predicted": predicted, "correct": correct, "count": count}
            for (predicted, correct), count in sorted(version.pairs.items(), key=_most_first)
        ],
        "classes": _classes(version.pairs),
        "without_prediction": {
            "judged": unlinked.judged if unlinked else 0,
            "right": unlinked.right if unlinked else 0,
        },
    }


def _most_first(item: tuple[tuple[str, str | None], int]) -> tuple[int, str, str]:
    (predicted, correct), count = item
    return -count, predicted, correct or ""


def _classes(pairs: dict[tuple[str, str | None], int]) -> list[dict[str, Any]]:
    """Return each class, the worst first: how often it was right when predicted, and found when it was there."""
    names = {name for pair in pairs for name in pair if name is not None}
    return sorted(
        (_class(name, pairs) for name in names),
        key=lambda one: (_upper(one["precision"]), _upper(one["recall"]), one["class"]),
    )


def _class(name: str, pairs: dict[tuple[str, str | None], int]) -> dict[str, Any]:
    right = pairs.get((name, name), 0)
    predicted = sum(count for (answer, _), count in pairs.items() if answer == name)
    actual = sum(count for (_, correct), count in pairs.items() if correct == name)
    return {"class": name, "precision": _proportion(right, predicted), "recall": _proportion(right, actual)}


def _upper(proportion: dict[str, Any]) -> float:
    high = proportion["high"]
    return 1.0 if high is None else float(high)


def _agreement(row: Record) -> dict[str, Any]:
    agreement = Agreement(row.pictures, row.unanimous, row.votes, row.disagreement, row.squares)
    alpha = agreement.alpha
    return {
        "pictures": agreement.pictures,
        "unanimous": _proportion(agreement.unanimous, agreement.pictures),
        "krippendorff_alpha": None if alpha is None else round(alpha, PLACES),
    }


def _proportion(count: int, total: int) -> dict[str, Any]:
    """Return a proportion with its 95 % interval by Wilson."""
    proportion = Proportion(count, total)
    low, high = proportion.interval or (None, None)
    numbers = {"share": proportion.share, "low": low, "high": high}
    return {
        "count": count,
        "total": total,
        **{name: None if number is None else round(number, PLACES) for name, number in numbers.items()},
    }


def _day(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
