"""Predictions as our predictor replies with them, read back: another one may send anything."""

from __future__ import annotations

from pydantic import Field

from model_server.documents.document import LooseDocument, read
from model_server.errors import ModelServerError


class ScoredClass(LooseDocument):
    """One class; ``score`` is its probability."""

    label: str = Field(description="a string")
    score: float = Field(description="a number")
    index: int | None = Field(None, description="an integer")


class Prediction(ScoredClass):
    """The best class of one image, and the best ``top_k`` where the predictor names them."""

    top: list[ScoredClass] | None = Field(None, fail_fast=True, description="a list of classes")

    @property
    def ranked(self) -> list[ScoredClass]:
        """The best classes in descending order of score."""
        return self.top or [self]


class _Reply(LooseDocument):
    predictions: list[Prediction] = Field(fail_fast=True, description="a list of predictions")


def predictions(found: object) -> list[Prediction] | None:
    """Return what a predictor has found, in the order of the images; None where it is of another shape."""
    try:
        return read(_Reply, {"predictions": found}).predictions
    except ModelServerError:
        return None
