"""The embedded PostgreSQL of one data folder: one system at a time, kept running."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from model_server.config import ENV_PREFIX
from model_server.errors import SettingsError, Unavailable
from model_server.store.embedded import EmbeddedPostgres

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1
PORT = "5432"
"""PostgreSQL's default, here no more than a part of its socket's name."""


@contextlib.contextmanager
def reserve(folder: Path) -> Iterator[None]:
    """Hold the folder; raises SettingsError where another system holds it or it cannot be written."""
    name = f"{ENV_PREFIX}DATA_DIR={folder}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w", encoding="ascii")
    except OSError as error:
        raise SettingsError(f"{name}: the folder cannot be used: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{name}: another `model-server up` works with it; choose another folder.") from None
        yield


def url_of_running(folder: Path) -> str:
    """Return where the database of a running system is; raises SettingsError where none runs in the folder."""
    url = EmbeddedPostgres.url_of_running(folder / "postgres")
    if url is None:
        raise SettingsError(f"{folder} is not the folder of a `model-server up` that runs.")
    return url


class Database:
    """PostgreSQL on the data in ``folder / "postgres"``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgres"
        self._server = EmbeddedPostgres(self._folder)

    @property
    def url(self) -> str:
        """Where it is, once it is started."""
        return self._server.url

    async def start(self) -> None:
        """Start it, or find it running; raises Unavailable."""
        try:
            await asyncio.to_thread(self._server.start)
        except (subprocess.SubprocessError, OSError) as error:
            raise Unavailable(f"PostgreSQL does not start ({error}); {self._folder / 'log'} may say why.") from None

    async def keep(self) -> None:
        """Start it again whenever it has ended, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not await asyncio.to_thread(_answers, self.url):
                logger.warning("PostgreSQL ended; starting it again")
                try:
                    await self.start()
                except Unavailable as error:  # its recovery may take longer than the patience of whoever starts it
                    logger.warning("%s Trying again.", error)

    async def stop(self) -> None:
        """End it; what is committed is on disk."""
        try:
            await asyncio.to_thread(self._server.stop)
        except (subprocess.SubprocessError, OSError) as error:
            logger.warning("PostgreSQL does not end: %s", error)


def _answers(url: str) -> bool:
    folder = parse_qs(urlsplit(url).query)["host"][0]
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(f"{folder}/.s.PGSQL.{PORT}")
        except OSError:
            return False
    return True
