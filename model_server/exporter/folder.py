"""The folder a bundle is built in: it appears under its name when it is complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from model_server import bundle as bundles
from model_server.errors import ExportError


@contextlib.contextmanager
def new_folder(output: Path, *, force: bool) -> Iterator[Path]:
    """Give a folder beside ``output`` that takes its name when the block ends well, and vanishes otherwise.

    Raises ExportError where ``output`` has content, unless that is a bundle and ``force`` says to replace it.
    """
    output = output.absolute()
    _check_free(output, force=force)
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"{output} cannot be written: {error.strerror}.") from None
    try:
        yield draft
        _replace(draft, output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_free(output: Path, *, force: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / bundles.MANIFEST).is_file():
        raise ExportError(f"{output} exists and is no bundle; it is not replaced.")
    if not force:
        raise ExportError(f"{output} holds a bundle; --force replaces it.")


def _replace(draft: Path, output: Path) -> None:
    if not output.exists():
        draft.rename(output)
        return
    old = draft.with_name(f"{draft.name}.old")
    output.rename(old)
    draft.rename(output)
    shutil.rmtree(old)
