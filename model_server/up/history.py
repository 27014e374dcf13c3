"""Which bundle is in service, and which were before: kept in the data folder, so that a restart does not undo it."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

logger = logging.getLogger(__name__)

FILE = "rollout.json"
MOST = 20
"""So many may be gone back."""


class History(BaseModel):
    """A bundle is its folder; None stands for the model in the package.

    It holds as long as the system is started with the same bundle: ``configured``. Another one begins anew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    configured: Path | None
    bundle: Path | None
    before: tuple[Path | None, ...] = ()
    name: str | None = None
    """Of the model in the URLs, which is the callers' and stays when bundles change; None: the bundle's own."""

    def forward(self, bundle: Path | None, name: str) -> History:
        """Return it with another bundle in service."""
        return History(configured=self.configured, bundle=bundle, before=(*self.before, self.bundle)[-MOST:], name=name)

    def back(self) -> History:
        """Return it with the bundle before in service."""
        return History(configured=self.configured, bundle=self.before[-1], before=self.before[:-1], name=self.name)

    def write(self, folder: Path) -> None:
        """Keep it in ``folder``."""
        write_whole(folder / FILE, self.model_dump_json(indent=1))


def read(folder: Path, configured: Path | None) -> History:
    """Return what ``folder`` has for the system that is started with ``configured``, and else a beginning."""
    begin = History(configured=configured, bundle=configured)
    try:
        kept = History.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return begin
    except (OSError, ValidationError):
        logger.warning("%s cannot be read; the bundle of the settings is served", folder / FILE)
        return begin
    return kept if kept.configured == configured else begin


def write_whole(path: Path, content: str) -> None:
    """Write a file, for its owner alone, so that a reader finds either all of it or what was there before."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(content, encoding="utf-8")
    fresh.replace(path)
