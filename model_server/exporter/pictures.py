"""Pictures in a folder, a zip or a tar, read one after the other."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from model_server import image, runtimes
from model_server.bundle import InputSpec
from model_server.decoding.decoders import Decoders
from model_server.decoding.messages import Decoding
from model_server.errors import ExportError, ModelServerError
from model_server.schema import IMAGE_SUFFIXES

OWN_FILES = image.Limits(max_bytes=1 << 30, max_pixels=1 << 28, cpu_seconds=60, memory_bytes=3 << 30)
"""Limits on what is read from the caller's own disk: high, yet short of filling the memory."""


@dataclass(frozen=True)
class Labelled:
    """One encoded picture, the class it shows, and its name for messages."""

    name: str
    label: str
    data: bytes


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures and their classes, read anew at each iteration; ``entries`` are (name, class)."""

    source: Path
    entries: list[tuple[str, str]]

    @property
    def labels(self) -> list[str]:
        """The classes, sorted."""
        return sorted({label for _, label in self.entries})

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Labelled]:
        contents = read(self.source, (name for name, _ in self.entries))
        for (name, label), data in zip(self.entries, contents, strict=True):
            yield Labelled(f"{self.source}: {name}", label, data)


def list_names(source: Path) -> list[str]:
    """Return the names of the pictures below a folder or in a zip, sorted; ExportError if there are none."""
    if source.is_dir():
        found = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    elif source.is_file():
        with _archive(source) as archive:
            found = archive.namelist()
    else:
        raise ExportError(f"{source} does not exist; a folder or a zip of pictures is needed.")
    names = sorted(name for name in found if _is_picture(PurePosixPath(name)))
    if not names:
        raise ExportError(f"{source} has no pictures; {', '.join(sorted(IMAGE_SUFFIXES))} are read.")
    return names


def read(source: Path, names: Iterable[str]) -> Iterator[bytes]:
    """Yield the content of each named file of a folder, a zip or a tar."""
    if source.is_dir():
        yield from ((source / name).read_bytes() for name in names)
        return
    if is_tar(source):
        yield from _read_tar(source, names)
        return
    with _archive(source) as archive:
        for name in names:
            try:
                yield archive.read(name)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                raise ExportError(f"{source}: {name} cannot be unpacked: {error}.") from None


def by_folder(source: Path) -> LabelledPictures:
    """Return the pictures of ``<class>/*``, each of the class that its folder names."""
    entries = [(name, PurePosixPath(name).parent.name) for name in list_names(source)]
    loose = [name for name, label in entries if not label]
    if loose:
        raise ExportError(f"{source}: {loose[0]} lies in no class's folder; pictures are expected as <class>/<file>.")
    return LabelledPictures(source, entries)


def decoded(pictures: Iterable[Labelled], spec: InputSpec) -> Iterator[tuple[Labelled, NDArray[np.uint8]]]:
    """Yield each picture and its pixels uint8 [height, width, 3], decoded as the server will, in worker processes.

    Raises ExportError that names a picture which cannot be decoded, or costs more than OWN_FILES allow.
    """
    with Decoders(Decoding(spec, OWN_FILES), runtimes.cores()) as decoders:
        for picture, result in decoders.each(pictures, lambda picture: picture.data):
            if isinstance(result, ModelServerError):
                raise ExportError(f"{picture.name}: {result}")
            if isinstance(result, BaseException):
                raise result
            yield picture, result


def is_tar(source: Path) -> bool:
    """Whether a file is a tar, compressed or not."""
    return source.is_file() and tarfile.is_tarfile(source)


def _read_tar(source: Path, names: Iterable[str]) -> Iterator[bytes]:
    try:
        with tarfile.open(source) as archive:
            for name in names:
                content = archive.extractfile(name)
                if content is None:
                    raise ExportError(f"{source}: {name} is no file.")
                yield content.read()
    except (tarfile.TarError, KeyError, OSError) as error:
        raise ExportError(f"{source} cannot be unpacked: {error}.") from None


def _archive(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except zipfile.BadZipFile:
        raise ExportError(f"{source} is neither a folder nor a zip.") from None


def _is_picture(path: PurePosixPath) -> bool:
    # Archives made on a Mac carry "__MACOSX/._photo.jpg" beside each photo.jpg.
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden
