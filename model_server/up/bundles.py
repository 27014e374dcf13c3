"""Bundles from where they are told to be, into a folder of this machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from model_server.errors import InvalidInput
from model_server.store.object_storage import download
from model_server.up.history import History

FOLDER = "bundles"


async def fetched(where: str, folder: Path) -> Path:
    """Return a bundle's folder: as it is named, or a copy below ``folder`` of what is at a URL such as `s3://…`.

    Raises InvalidInput where there is none, Unavailable where its store does not answer.
    """
    if "://" in where and not where.startswith("file://"):
        return await _copy(where, folder / FOLDER)
    found = Path(where.removeprefix("file://"))
    if not found.is_dir():  # noqa: ASYNC240 - a look, and no more
        raise InvalidInput(f"There is no folder {found}.")
    return found.resolve()  # noqa: ASYNC240


async def _copy(url: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240
    copy = Path(tempfile.mkdtemp(prefix="bundle-", dir=folder))
    try:
        await download(url, copy)
    except BaseException:
        shutil.rmtree(copy)
        raise
    return copy


def forget(folder: Path, history: History) -> None:
    """Remove the copies that nobody can go back to."""
    needed = {history.bundle, *history.before}
    for copy in (folder / FOLDER).glob("bundle-*"):
        if copy not in needed:
            shutil.rmtree(copy)
