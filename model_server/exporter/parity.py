"""Whether the artifact says what the original said, on golden and calibration pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_server import image
from model_server.bundle import GoldenImage
from model_server.classifier import Classifier
from model_server.errors import ExportError

Scores = NDArray[np.float32]
Pixels = NDArray[np.uint8]

LIMITS = {"none": 1e-3, "float16": 0.05, "int8": 0.1}
"""Largest difference of a score from the original's: on each golden picture, for int8 in the mean over pictures.

Rounding the weights of MobileNetV2 to float16 was seen to move a score by 0.016."""

TOLERANCES = {"none": 1e-3, "float16": 5e-3, "int8": 0.1}
"""Largest difference that the golden check allows from run to run.

In int8 runtimes round intermediate results differently: LiteRT and OpenVINO were seen 0.08 apart."""

LEAST_TOLERANCE = 1e-5
"""What two processors' float32 arithmetic may differ by in a score."""

BATCH = 16


def read_pixels(classifier: Classifier, folder: Path, files: Sequence[str], limits: image.Limits) -> Pixels:
    """Decode pictures as ``classifier`` would to uint8 [N, height, width, 3]."""
    spec = classifier.bundle.manifest.input
    return np.stack([image.decode((folder / file).read_bytes(), spec, limits) for file in files])


def scores_of(classifier: Classifier, pixels: Pixels) -> Scores:
    """Return the probabilities [N, classes] of decoded pictures [N, height, width, 3]."""
    spec, infer = classifier.bundle.manifest.input, classifier.session()
    batches = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
    return np.concatenate([infer(image.scale(batch, spec)) for batch in batches])


def are_logits(scores: Scores, step: float) -> bool:
    """Tell whether raw scores [N, classes] are no probabilities: negative, or of a sum other than 1.

    ``step`` is the distance of neighbouring scores where they are quantised: each may be off by half of it.
    """
    slack = 1e-2 + scores.shape[1] * step / 2
    return bool((scores < 0).any() or (np.abs(scores.sum(axis=1) - 1) > slack).any())


def check_each(names: Sequence[str], labels: Sequence[str], expected: Scores, got: Scores, limit: float) -> float:
    """Return the largest difference of scores; ExportError names the first picture beyond ``limit``.

    Another best class alone is no disagreement: within the limit it can only be a tie.
    """
    errors = np.abs(expected - got).max(axis=1)
    for name, before, after, error in zip(names, expected, got, errors, strict=True):
        if not error <= limit:
            raise ExportError(
                f"The artifact disagrees with the original on {name}: {_best(before, labels)} became "
                f"{_best(after, labels)}; largest difference {error:.2g}, allowed {limit:.2g}."
            )
    return float(errors.max())


def check_mean(names: Sequence[str], labels: Sequence[str], expected: Scores, got: Scores, limit: float) -> float:
    """Return the mean over pictures of the largest difference; ExportError if it is beyond ``limit``."""
    errors = np.abs(expected - got).max(axis=1)
    worst = int(errors.argmax())
    if not errors.mean() <= limit:
        raise ExportError(
            f"The int8 artifact's scores differ from the original's by {errors.mean():.2g} in the mean of "
            f"{len(errors)} pictures, allowed {limit:.2g}; most on {names[worst]}: "
            f"{_best(expected[worst], labels)} became {_best(got[worst], labels)}. "
            "More calibration pictures may help, or float16."
        )
    return float(errors.mean())


def golden_tolerance(classifier: Classifier, pixels: Pixels, scores: Scores, error: float) -> float:
    """Return what the golden check is to allow: as TOLERANCES says, but too little for a mistake in scaling.

    The mistakes tried are pixels at half their contrast, dark and bright: what x/255 is to a model that takes
    -1..1, and the reverse. The artifact's own ``error`` stays allowed.
    """
    mistaken = (pixels // 2, pixels // 2 + 128)
    noticed = min(float(np.abs(scores_of(classifier, wrong) - scores).max()) for wrong in mistaken)
    usual = TOLERANCES[classifier.bundle.manifest.quantization]
    return float(f"{max(min(usual, noticed / 2), 2 * error, LEAST_TOLERANCE):.2g}")


def golden_images(files: Sequence[str], labels: Sequence[str], scores: Scores) -> list[GoldenImage]:
    """Describe the golden pictures by their scores [N, classes]."""
    best = scores.argmax(axis=1).tolist()
    return [
        GoldenImage(file=file, label=labels[index], index=index, scores=row)
        for file, index, row in zip(files, best, scores.tolist(), strict=True)
    ]


def decide_logits(stated: Literal["auto", "logits", "probabilities"], scores: Scores, step: float) -> bool:
    """Return whether scores need a softmax, as the caller stated or as the raw scores [N, classes] show."""
    return are_logits(scores, step) if stated == "auto" else stated == "logits"


def _best(scores: Scores, labels: Sequence[str]) -> str:
    index = int(scores.argmax())
    return f"{labels[index]} {scores[index]:.4f}"
