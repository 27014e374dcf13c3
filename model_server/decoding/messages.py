"""What server and worker process say to each other: frames of a length, 4 bytes big-endian, and a pickle.

Pickles are safe here: each end of the socket pair is a process of this server.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from numpy.typing import NDArray

from model_server import classifier as classifiers
from model_server.bundle import InputSpec
from model_server.classifier import ServedModel
from model_server.config import PredictorSettings
from model_server.image import Limits

WORN_OUT = 3
"""Exit status of a worker that has begun no further picture, for it would have too little memory for it."""
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Decoding:
    """The first message to a worker that makes pictures into pixels uint8 [height, width, 3] for ``spec``."""

    spec: InputSpec
    limits: Limits


@dataclass(frozen=True, slots=True)
class Classifying:
    """The first message to a worker that makes pictures into probabilities float32 [classes]."""

    settings: PredictorSettings

    @property
    def limits(self) -> Limits:
        """What one picture may be and cost."""
        return classifiers.limits_of(self.settings)


Task = Decoding | Classifying


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker's first message, with the model where it has one; a BundleError where the model failed its check."""

    model: ServedModel | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The worker's reply to a picture: what was made of it or what was wrong, and seconds."""

    result: NDArray[Any] | Exception
    decode_seconds: float
    inference_seconds: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """The worker's reply to a picture that was taken back before it began."""


def frame(message: object) -> bytes:
    """Return ``message`` as it travels."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


def read(incoming: BinaryIO) -> Any:
    """Wait for the next message and return it; None where the other end is closed."""
    head = incoming.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    size = _LENGTH.unpack(head)[0]
    content = incoming.read(size)
    return pickle.loads(content) if len(content) == size else None  # noqa: S301 - from a process of this server


class Frames:
    """Collects what arrives in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Add ``data``; yield each message that is complete."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                message = pickle.loads(view[_LENGTH.size : end])  # noqa: S301 - from a process of this server
            del self._buffer[:end]
            yield message
