"""What travels on the wire: header names and the shapes of JSON bodies."""

from __future__ import annotations

from typing import Literal, Required, TypedDict

REQUEST_ID_HEADER = "X-Request-Id"
MODEL_VERSION_HEADER = "Model-Version"
INSTANCE_COUNT_HEADER = "Instance-Count"
"""How many images a prediction's reply is about."""
BINARY_HEADER = "Inference-Header-Content-Length"
"""Byte length of the JSON part of a V2 binary body
(https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_data.md)."""
CacheUse = Literal["hit", "collapsed"]
"""How a result that was not computed for the request came to it: found, or shared with an identical one in flight."""
LOADING = "The model is being loaded."
"""Why a predictor is not ready yet; any other reason will not go away by waiting."""
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Names, in lower case, of the files in a folder or archive that are taken for images."""


class ScoredClass(TypedDict):
    """One class of the model; ``score`` is its probability, 0..1."""

    label: str
    index: int
    score: float


class Prediction(ScoredClass):
    """The best class of one image, and the best ``top_k`` in descending order of score."""

    top: list[ScoredClass]


class V1Reply(TypedDict):
    """Reply to ``POST /v1/models/{model}:predict``, in the order of the request's instances."""

    predictions: list[Prediction]


class PredictionError(TypedDict, total=False):
    """Why a prediction has failed, or its last attempt; ``status`` is the predictor's, where it refused."""

    code: Required[Literal["rejected", "deadline_exceeded", "attempt_failed"]]
    message: Required[str]
    status: int


class PredictionResource(TypedDict):
    """A prediction that is made later; times are RFC 3339 in UTC.

    ``position`` counts what is taken before it, ``eta_seconds`` estimates the seconds until its end from the rate of
    the last hundred runs; both only while it is queued. Behind 100 others or more, the position in the reply that
    accepts it is an estimate, from the queue as it was up to half a second ago; a later GET has it exact.
    """

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    model: str
    model_version: str | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    deadline: str | None
    attempts: int
    position: int | None
    eta_seconds: float | None
    predictions: list[Prediction] | None
    error: PredictionError | None
    image_sha256: str | None
    links: dict[str, str]


class ErrorReply(TypedDict):
    """Body of every reply that is not a success."""

    error: str
