"""The file that says which predictors there are, read anew when it changes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from model_server.background import Background
from model_server.config import ENV_PREFIX, QueueProxySettings, WeightedPredictor
from model_server.errors import SettingsError
from model_server.queue_proxy.split import Split

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25

Predictors = tuple[WeightedPredictor, ...]
Signature = tuple[int, int, int]
_DOCUMENT: TypeAdapter[Predictors] = TypeAdapter(Annotated[Predictors, Field(min_length=1)])


def first_predictors(settings: QueueProxySettings) -> Predictors:
    """Return the predictors to begin with; raises SettingsError where the file that names them cannot be read."""
    if settings.predictors_file:
        return read(settings.predictors_file)
    return settings.predictors or (WeightedPredictor(url=settings.predictor_url, weight=1),)


def read(path: Path) -> Predictors:
    """Read the file; raises SettingsError that says what is wrong with it."""
    name = f"{ENV_PREFIX}PREDICTORS_FILE={path}"
    try:
        return _DOCUMENT.validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{name}: {where or 'the document'}: {first['msg']}.") from None


async def follow(path: Path, split: Split, background: Background) -> None:
    """Tell ``split`` of every change, until cancelled; a file that is wrong or missing changes nothing."""
    known: Signature | None = None

    async def look() -> None:
        nonlocal known
        if (found := _signature(path)) is not None and found != known:
            known = found
            try:
                split.change(read(path))
            except SettingsError as error:
                logger.error("the predictors stay as they are: %s", error)  # noqa: TRY400 - the sentence says it

    await background.duty("predictors file").repeat(look, LOOK_SECONDS)


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
