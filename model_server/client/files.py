"""From paths to one result a file, in order, whatever classifies them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model_server.errors import InvalidInput, ModelServerError, NotFound, Unauthorized, Unavailable
from model_server.schema import IMAGE_SUFFIXES, Prediction


@dataclass(frozen=True)
class Answer:
    """What a model said of one image, and which version of it."""

    prediction: Prediction
    model_version: str


class Model(Protocol):
    """Anything that classifies; ``parallel`` is how many threads may ask it at once."""

    parallel: int

    def classify(self, data: bytes) -> Answer:
        """Classify one encoded image.

        Raises NotFound or Unavailable where no image would fare better, another error for this image alone.
        """
        ...


@dataclass(frozen=True)
class Result:
    """One file's answer, or the sentence that says why there is none."""

    file: Path
    outcome: Answer | str


def find(paths: Iterable[Path]) -> list[Path]:
    """Return every file that is named, and below every folder, sorted, the files with an image's suffix.

    A folder without any stands for itself, so that it is reported and not passed over.
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(file for file in path.rglob("*") if _is_image(file)) if path.is_dir() else []
        files += inside or [path]
    return files


def classify(model: Model, files: Sequence[Path]) -> Iterator[Result]:
    """Yield one result a file in the order of ``files``; a NotFound or Unavailable ends the iteration."""
    pool = ThreadPoolExecutor(model.parallel)
    try:
        yield from pool.map(lambda file: _classify_file(model, file), files)
    finally:
        pool.shutdown(cancel_futures=True)


def _classify_file(model: Model, file: Path) -> Result:
    try:
        return Result(file, model.classify(read(file)))
    except (NotFound, Unauthorized, Unavailable):
        raise
    except ModelServerError as error:
        return Result(file, str(error))


def read(file: Path) -> bytes:
    """Return the file's content; raises InvalidInput with the reason where there is none."""
    if file.is_dir():
        raise InvalidInput(f"The folder holds no image; {', '.join(sorted(IMAGE_SUFFIXES))} are read.")
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"The file cannot be read: {error.strerror}.") from None


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
