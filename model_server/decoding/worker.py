"""The program of one worker process: take a task, say so, answer pictures one by one until the server is gone."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from model_server import classifier as classifiers
from model_server import image
from model_server.classifier import Picture
from model_server.decoding.budget import Budget
from model_server.decoding.messages import WORN_OUT, Decoding, Outcome, Ready, Skipped, Task, frame, read
from model_server.errors import BundleError, DamagedImage, ModelServerError, TooCostly, Unavailable

STDERR = 2
Step = Callable[[Any], NDArray[Any]]


def main() -> None:
    """Serve the socket whose descriptor is the first argument; see Child for the others."""
    # The server ends its workers by closing the socket, so that none ends with a picture in hand.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    descriptor, taken_back, stderr = map(int, sys.argv[1:])
    with socket.socket(fileno=descriptor) as server, server.makefile("rb") as incoming:
        task: Task | None = read(incoming)
        if task is None:
            return
        try:
            ready, decode, infer = _prepare(task)
        except BundleError as error:
            server.sendall(frame(error))
            return
        _send_libraries_away(stderr)
        answer = Answer(decode, infer, Budget(task.limits), task.limits)
        try:
            server.sendall(frame(ready))
            _serve(server, incoming, memoryview(mmap.mmap(taken_back, mmap.PAGESIZE)).cast("Q"), answer)
        except (BrokenPipeError, ConnectionResetError):  # the server died: nobody is left to answer
            return


def _prepare(task: Task) -> tuple[Ready, Step, Step | None]:
    """Return what to say, what to do within the budget, and what after it; raises BundleError."""
    if isinstance(task, Decoding):
        return Ready(), lambda picture: image.pixels(picture, task.spec, task.limits), None
    loaded = classifiers.load_checked(task.settings, threads=1)
    session = loaded.session()
    return Ready(loaded.served), loaded.prepare, lambda prepared: session(prepared[np.newaxis])[0]


def _send_libraries_away(stderr: int) -> None:
    """Let Python alone write to standard error; what C libraries write there goes to the server's pipe."""
    sys.stderr = os.fdopen(os.dup(STDERR), "w", buffering=1)
    os.dup2(stderr, STDERR)


def _serve(server: socket.socket, incoming: BinaryIO, taken_back: memoryview, answer: Answer) -> None:
    number = 0
    while (picture := read(incoming)) is not None:
        number += 1
        server.sendall(frame(Skipped() if number <= taken_back[0] else answer(picture)))
        if answer.budget.is_worn:
            sys.exit(WORN_OUT)


class Answer:
    """From a picture to its outcome."""

    def __init__(self, decode: Step, infer: Step | None, budget: Budget, limits: image.Limits) -> None:
        self._decode = decode
        self._infer = infer
        self.budget = budget
        self._limits = limits

    def __call__(self, picture: Picture) -> Outcome:
        """Decode within the budget, then infer."""
        begun = time.perf_counter()
        try:
            result = self._decoded(picture)
            decoded = time.perf_counter()
            if self._infer:
                result = self._infer(result)
        except ModelServerError as error:
            return Outcome(error, time.perf_counter() - begun, 0.0)
        except Exception:  # noqa: BLE001 - the server logs it and answers; the worker lives on
            return Outcome(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"), 0.0, 0.0)
        return Outcome(result, decoded - begun, time.perf_counter() - decoded)

    def _decoded(self, picture: Picture) -> NDArray[Any]:
        """Return what the picture gives; raises TooCostly, and Unavailable where memory is short in general."""
        try:
            with self.budget.spent():
                return self._decode(picture)
        except MemoryError:
            error: ModelServerError = TooCostly(
                f"The image takes more memory to decode than one image may: {self._limits.memory_bytes:,} bytes."
            )
        except DamagedImage as damaged:  # libraries in C say the same where they get no memory
            error = damaged.with_traceback(None)
        # By now all that the decoder held is free again.
        if not self.budget.could_be_had():
            error = Unavailable("The server is short of memory. Try again later.")
        raise error


if __name__ == "__main__":
    main()
