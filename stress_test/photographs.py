"""The pictures that are sent, and the classes that are right answers to them."""

from __future__ import annotations

import mimetypes
import os
from dataclasses import dataclass
from pathlib import Path

from model_server import bundle

LABELS = "labels.tsv"
SERIAL_BYTES = 12


@dataclass(frozen=True)
class Photograph:
    """An encoded image; a reply is right where its best class is one of ``labels``."""

    name: str
    content: bytes
    media_type: str
    labels: frozenset[str]

    def unlike_any_other(self) -> Photograph:
        """Return the same picture in other bytes: what follows an image's own end is not looked at."""
        return Photograph(self.name, self.content + os.urandom(SERIAL_BYTES), self.media_type, self.labels)


def load(folder: Path) -> list[Photograph]:
    """Return the pictures of a folder with ``labels.tsv``, or the golden ones of a model bundle.

    Raises ValueError where the folder has neither.
    """
    if (folder / LABELS).exists():
        lines = [line.split("\t") for line in (folder / LABELS).read_text(encoding="utf-8").splitlines() if line]
        return [_read(folder / file, frozenset(labels)) for file, *labels in lines]
    if (folder / bundle.MANIFEST).exists():
        return [_read(folder / image.file, frozenset({image.label})) for image in bundle.read_manifest(folder).golden]
    raise ValueError(f"{folder} has neither {LABELS} (file, tab, right classes) nor a bundle's {bundle.MANIFEST}.")


def _read(file: Path, labels: frozenset[str]) -> Photograph:
    if not labels:
        raise ValueError(f"{file.parent / LABELS} names no right class for {file.name}.")
    return Photograph(file.name, file.read_bytes(), mimetypes.guess_type(file)[0] or "image/jpeg", labels)
