"""Labelled pictures from a folder or a zip, as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from model_server.bundle import InputSpec
from model_server.errors import ExportError, shown
from model_server.exporter.pictures import LabelledPictures, decoded, list_names
from model_server.exporter.progress import Progress

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """Pictures uint8 [N, size, size, 3] and their class numbers int32 [N]."""

    images: NDArray[np.uint8]
    classes: NDArray[np.int32]

    def digest(self) -> str:
        """Return a hash of pictures and classes."""
        content = hashlib.sha256(self.images.tobytes())
        content.update(self.classes.tobytes())
        return content.hexdigest()


def find_splits(source: Path) -> tuple[LabelledPictures, LabelledPictures]:
    """Return the pictures of ``train/<class>/*`` and ``test/<class>/*``, also below one top folder.

    Raises ExportError for a missing part, a picture outside a class's folder, or a class that is in test alone.
    """
    entries: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    names = list_names(source)
    depth = _top_folders(names)
    for name in names:
        split, *inner = PurePosixPath(name).parts[depth:]
        if split not in entries:
            continue
        if len(inner) != 2:
            raise ExportError(f"{source}: {name} does not lie at {split}/<class>/<file>.")
        entries[split].append((name, inner[0]))
    for split in SPLITS:
        if not entries[split]:
            raise ExportError(
                f"{source} has no pictures in {split}/; train/<class>/<file> and test/<class>/<file> are expected."
            )
    train, test = (LabelledPictures(source, entries[split]) for split in SPLITS)
    _check_classes(train, test)
    return train, test


def decode(pictures: LabelledPictures, labels: list[str], spec: InputSpec, progress: Progress) -> Split:
    """Decode every picture as the server will; raises ExportError that names an unreadable one."""
    number = {label: index for index, label in enumerate(labels)}
    images = np.empty((len(pictures), spec.height, spec.width, 3), np.uint8)
    classes = np.empty(len(pictures), np.int32)
    for row, (picture, pixels) in enumerate(decoded(pictures, spec)):
        images[row] = pixels
        classes[row] = number[picture.label]
        progress("Decoding", row + 1, len(pictures))
    return Split(images, classes)


def _top_folders(names: list[str]) -> int:
    """Return how many leading folders all names share before train/ and test/ begin."""
    parts = [PurePosixPath(name).parts for name in names]
    depth = 0
    while all(len(part) > depth + 1 for part in parts) and len({part[depth] for part in parts}) == 1:
        if parts[0][depth] in SPLITS:
            break
        depth += 1
    return depth


def _check_classes(train: LabelledPictures, test: LabelledPictures) -> None:
    unknown = sorted(set(test.labels) - set(train.labels))
    if unknown:
        raise ExportError(f"{test.source}: the class {shown(unknown[0])} is in test/ but not in train/.")
    if len(train.labels) < 2:
        only = shown(train.labels[0])
        raise ExportError(f"{train.source}: train/ has the class {only} alone; at least two are needed.")
