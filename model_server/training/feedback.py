"""Pictures that users labelled, from the feedback service's export, as training examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_server.errors import ExportError, shown
from model_server.exporter.pictures import LabelledPictures, is_tar, read
from model_server.training.dataset import Split

LABELS = "labels.jsonl"
"""One line a picture: ``{"image": "images/….jpg", "label": "cat", …}``."""


def find(source: Path, labels: Sequence[str]) -> LabelledPictures:
    """Return the labelled pictures of an export.

    Raises ExportError where it is no such tar, or names a class that is not in ``labels``.
    """
    if not is_tar(source):
        raise ExportError(f"{source} is not a tar; the export of /feedback/export is needed.")
    (content,) = read(source, [LABELS])
    known = set(labels)
    entries = [_entry(source, number, line, known) for number, line in enumerate(content.splitlines(), 1)]
    if not entries:
        raise ExportError(f"{source} holds no feedback.")
    return LabelledPictures(source, entries)


def _entry(source: Path, number: int, line: bytes, known: set[str]) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        image, label = entry["image"], entry["label"]
    except (ValueError, KeyError, TypeError):
        raise ExportError(f'{source}: line {number} of {LABELS} has no "image" and "label".') from None
    if label not in known:
        place = f"{source}: line {number} of {LABELS}"
        raise ExportError(f"{place} names the class {shown(label)}, which is not in train/.")
    return str(image), str(label)


def without_copies(examples: Split, test: Split) -> Split:
    """Return the examples whose pixels are not those of a test picture: trained on, it would test nothing."""
    tested = {_pixels(image) for image in test.images}
    kept = np.array([_pixels(image) not in tested for image in examples.images], dtype=bool)
    return Split(examples.images[kept], examples.classes[kept])


def mix_in(train: Split, examples: Split, repeat: int) -> Split:
    """Return the training pictures and, each ``repeat`` times, the examples."""
    return Split(
        np.concatenate([train.images, *[examples.images] * repeat]),
        np.concatenate([train.classes, *[examples.classes] * repeat]),
    )


def _pixels(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
