"""Labelled pictures from a folder or a zip, as arrays."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class Split:
    """Pictures uint8 [N, size, size, 3] and their class numbers int32 [N]."""

    images: np.ndarray
    classes: np.ndarray


def _entries(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                yield PurePosixPath(path.relative_to(source).as_posix()), path.read_bytes()
        return
    with zipfile.ZipFile(source) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.suffix.lower() in SUFFIXES:
                yield path, archive.read(name)


def load(source: Path, size: int) -> tuple[list[str], Split, Split]:
    found: dict[str, list[tuple[str, np.ndarray]]] = {"train": [], "test": []}
    for path, data in _entries(source):
        if len(path.parts) < 3 or path.parts[-3] not in found:
            continue
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.BILINEAR)
        found[path.parts[-3]].append((path.parts[-2], np.asarray(image)))
    labels = sorted({label for label, _ in found["train"]})
    number = {label: index for index, label in enumerate(labels)}

    def split(name: str) -> Split:
        items = found[name]
        return Split(
            np.stack([image for _, image in items]),
            np.array([number[label] for label, _ in items], dtype=np.int32),
        )

    return labels, split("train"), split("test")
