"""What travels on the wire: header names and the shapes of JSON bodies."""

from __future__ import annotations

from typing import TypedDict

REQUEST_ID_HEADER = "X-Request-Id"
MODEL_VERSION_HEADER = "Model-Version"
BINARY_HEADER = "Inference-Header-Content-Length"
"""Byte length of the JSON part of a V2 binary body
(https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_data.md)."""


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


class ErrorReply(TypedDict):
    """Body of every reply that is not a success."""

    error: str
