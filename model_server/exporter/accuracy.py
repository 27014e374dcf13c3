"""The share of right answers on labelled pictures, through the decoder and the model that will serve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from model_server.bundle import Accuracy
from model_server.classifier import Classifier
from model_server.errors import ExportError, shown
from model_server.exporter.pictures import Labelled, LabelledPictures, decoded
from model_server.exporter.progress import Progress
from model_server.runtimes import Session

Confusion = NDArray[np.int64]
"""Counts [classes, classes]; row: true class, column: predicted."""

Decoded = tuple[Labelled, NDArray[np.uint8]]

PICTURES_A_TURN = 32
MOST_CLASSES_SHOWN = 100
"""Beyond this many classes the matrix would be most of the manifest."""


def confusion_of(
    classifier: Classifier, pictures: LabelledPictures, threads: int, progress: Progress, what: str
) -> Confusion:
    """Classify every picture in ``threads`` sessions and count.

    Raises ExportError for a class that the model does not know, and for a picture that cannot be read.
    """
    labels = classifier.bundle.labels
    number = _numbers(labels, pictures)
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    done = 0
    sessions = [classifier.session() for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for turn in _turns(decoded(pictures, classifier.bundle.manifest.input), threads * PICTURES_A_TURN):
            shares = [share for share in (turn[start::threads] for start in range(threads)) if share]
            used = sessions[: len(shares)]
            for share, predicted in zip(
                shares, pool.map(_predict, [classifier] * len(used), used, shares), strict=True
            ):
                for (picture, _), column in zip(share, predicted, strict=True):
                    matrix[number[picture.label], column] += 1
            done += len(turn)
            progress(what, done, len(pictures))
    return matrix


def top1(matrix: Confusion) -> float:
    """Return the share of right answers, 0..1."""
    return float(np.trace(matrix) / matrix.sum())


def summarise(matrix: Confusion, labels: Sequence[str], before_quantization: float | None) -> Accuracy:
    """Describe a confusion matrix; classes without a picture have no share of their own."""
    counts = matrix.sum(axis=1)
    shares = {label: float(matrix[i, i] / counts[i]) for i, label in enumerate(labels) if counts[i]}
    return Accuracy(
        top1=top1(matrix),
        images=int(matrix.sum()),
        per_class=shares,
        confusion=matrix.tolist() if len(labels) <= MOST_CLASSES_SHOWN else [],
        before_quantization=before_quantization,
    )


def _numbers(labels: Sequence[str], pictures: LabelledPictures) -> dict[str, int]:
    numbers = {label: index for index, label in enumerate(labels)}
    for label in pictures.labels:
        if label not in numbers:
            raise ExportError(f"{pictures.source} has pictures of {shown(label)}, which is no class of the model.")
        if labels.count(label) > 1:
            raise ExportError(f"{pictures.source}: the model has {labels.count(label)} classes named {shown(label)}.")
    return numbers


def _predict(classifier: Classifier, infer: Session, pictures: Sequence[Decoded]) -> list[int]:
    inputs = classifier.scaled(np.stack([pixels for _, pixels in pictures]))
    best: list[int] = infer(inputs).argmax(axis=1).tolist()
    return best


def _turns(pictures: Iterable[Decoded], size: int) -> Iterator[list[Decoded]]:
    remaining = iter(pictures)
    while turn := list(islice(remaining, size)):
        yield turn
