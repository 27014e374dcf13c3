"""The classes that feedback may name: what each model version was seen to have."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from model_server.errors import Unavailable, Unprocessable, shown
from model_server.store import labels
from model_server.store.database import Database
from model_server.store.models import Record

FRESH_SECONDS = 30
"""A version that was seen for the first time elsewhere is known here after this."""
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class LabelBook:
    """The labels at one moment; ``rows`` has the version that was seen last first."""

    rows: list[Record] = field(default_factory=list)

    def find(self, model: str | None, version: str | None) -> Record | None:
        """Return what is known of a version, or of the newest that fits what is given."""
        for row in self.rows:
            if model in {None, row.model} and version in {None, row.model_version}:
                return row
        return None

    def resolve(self, model: str | None, version: str | None) -> tuple[str, str]:
        """Return the model and version that feedback without a prediction is about; raises Unprocessable."""
        names = sorted({row.model for row in self.rows})
        if model is None and len(names) > 1:
            raise Unprocessable(f'Name the "model": one of {shown(names)}.')
        row = self.find(model, version)
        if row is None:
            raise self._unknown(model or "the model", version)
        return str(row.model), str(row.model_version)

    def require(self, model: str, version: str, label: str) -> None:
        """Raise Unprocessable where a version has no such class, Unavailable where its classes are not known yet."""
        row = self.find(model, version)
        if row is None:
            raise self._unknown(model, version)
        if label not in row.labels:
            examples = ", ".join(shown(one)[1:-1] for one in row.labels[:EXAMPLES])
            examples += ", …" if len(row.labels) > EXAMPLES else ""
            raise Unprocessable(f"{shown(label)} is no class of {model} {version}; its classes are {examples}.")

    def _unknown(self, model: str, version: str | None) -> Unavailable | Unprocessable:
        if self.rows and not any(row.model == model for row in self.rows):
            return Unprocessable(f"No prediction of {shown(model)} was seen; models are {self._models()}.")
        name = f"{model} {version or ''}".strip()
        return Unavailable(f"The classes of {shown(name)} are not known yet: they are learned as it predicts.")

    def _models(self) -> str:
        return shown(sorted({row.model for row in self.rows}))


class LabelShelf:
    """Reads the labels from the database, at most twice a minute and where something is missing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._book = LabelBook()
        self._read_at = float("-inf")

    async def book(self, *, fresh: bool = False) -> LabelBook:
        """Return the labels; ``fresh``: as they are now."""
        if fresh or time.monotonic() - self._read_at > FRESH_SECONDS:
            self._book = LabelBook(await labels.known(self._database))
            self._read_at = time.monotonic()
        return self._book
