"""Talking to a running `model-server up`: a socket in its folder, one JSON object a line.

The socket is its owner's alone, by its mode: whoever may write to it may already write to the folder. One request; then
any number of ``{"progress": sentence}``, and ``{"done": sentence}`` or ``{"error": sentence}``. Whoever hangs up before
that calls it off, as far as it can be.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_server.errors import Conflict, Unavailable

SOCKET = "control"


class RollOut(BaseModel):
    """Put a bundle into service; ``canary``: for so many per cent of the callers, None: for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["rollout"] = "rollout"
    bundle: str
    canary: int | None = Field(None, ge=1, le=99)
    shadow: int = Field(50, ge=0, le=1000, description="Most recent images to try it on.")
    min_agreement: float = Field(0, ge=0, le=100, description="Per cent of them that must keep their class.")
    timeout_seconds: float = Field(300, gt=0, description="Longest time to load.")


class RollBack(BaseModel):
    """End the canary, or else put the bundle before back into service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["rollback"] = "rollback"
    timeout_seconds: float = Field(300, gt=0, description="Longest time to load.")


Order = Annotated[RollOut | RollBack, Field(discriminator="command")]


@contextmanager
def socket_path(folder: Path) -> Iterator[str]:
    """Give the socket a path that is short enough for any folder: at most 107 bytes may be in it.

    Raises OSError where the folder is not there.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


def order(folder: Path, wanted: RollOut | RollBack, say: Callable[[str], None]) -> str:
    """Have something done by the system that works with ``folder``, and return what has become of it.

    Raises Unavailable where there is none, Conflict with its sentence where it refuses or fails.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with socket_path(folder) as path:
                connection.connect(path)
        except OSError as error:
            raise Unavailable(f"No `model-server up` works with the folder {folder}: {error.strerror}.") from None
        try:
            connection.sendall(wanted.model_dump_json().encode() + b"\n")
            with connection.makefile("rb") as replies:
                return _outcome(replies, say)
        except OSError as error:
            raise Unavailable(f"`model-server up` broke off: {error.strerror}.") from None


def _outcome(replies: Iterator[bytes], say: Callable[[str], None]) -> str:
    for line in replies:
        match json.loads(line):
            case {"progress": str(sentence)}:
                say(sentence)
            case {"done": str(sentence)}:
                return sentence
            case {"error": str(sentence)}:
                raise Conflict(sentence)
    raise Unavailable("`model-server up` ended in the middle of it; its log says why.")
