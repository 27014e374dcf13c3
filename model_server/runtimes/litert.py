"""TFLite models on CPU by LiteRT: one single-threaded interpreter a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from model_server.config import RuntimeName
from model_server.runtimes import Session, checked_dtype, checked_shape

STDERR = 2
NOTICE = b"INFO: Created TensorFlow Lite XNNPACK delegate"
_stderr = Lock()
"""Two that exchanged it at once would put back each other's."""


class LiteRTModel:
    """A ``.tflite`` file; float or quantised, its scores come out as float32."""

    runtime: RuntimeName = "litert"

    def __init__(self, artifact: Path) -> None:
        self._artifact = artifact
        interpreter = self._interpreter()
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        self.height, self.width = checked_shape(artifact, source["shape"].tolist())
        self.dtype = checked_dtype(artifact, np.dtype(source["dtype"]).name)
        self.classes = int(result["shape"][-1])

    def _interpreter(self) -> Any:
        interpreter = Interpreter(model_path=str(self._artifact), num_threads=1)
        with _without_notice():
            interpreter.allocate_tensors()
        return interpreter

    def session(self) -> Session:
        """Return a function with an interpreter of its own."""
        interpreter = self._interpreter()
        source = interpreter.get_input_details()[0]["index"]
        result = interpreter.get_output_details()[0]
        step, zero = result["quantization"]

        def infer(batch: NDArray[Any]) -> NDArray[np.float32]:
            scores = np.empty((len(batch), self.classes), np.float32)
            for row, image in enumerate(batch):
                interpreter.set_tensor(source, image[np.newaxis])
                interpreter.invoke()
                scores[row] = interpreter.get_tensor(result["index"])[0]
            return (scores - np.float32(zero)) * np.float32(step) if step else scores

        return infer


@contextmanager
def _without_notice() -> Iterator[None]:
    """Keep the library's notice of its delegate off standard error, where it writes without asking any logger.

    Whatever else is written meanwhile follows at the end.
    """
    with _stderr, os.fdopen(os.memfd_create("stderr"), "w+b") as written:
        stderr = os.dup(STDERR)
        os.dup2(written.fileno(), STDERR)
        try:
            yield
        finally:
            os.dup2(stderr, STDERR)
            os.close(stderr)
            written.seek(0)
            os.write(STDERR, b"".join(line for line in written if not line.startswith(NOTICE)))


def load(artifact: Path, threads: int) -> LiteRTModel:  # noqa: ARG001 - each session is one thread
    """Load a ``.tflite`` file."""
    return LiteRTModel(artifact)
