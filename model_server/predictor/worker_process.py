"""The program of one worker process: load the model, say so, answer pictures one by one until the server is gone."""

from __future__ import annotations

import signal
import socket
import sys
import time
import traceback
from typing import BinaryIO

import numpy as np

from model_server import classifier as classifiers
from model_server.classifier import Classifier, Picture
from model_server.errors import BundleError, ModelServerError
from model_server.predictor.worker_messages import Loaded, Outcome, frame, read
from model_server.runtimes import Session


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    # The server ends its workers by closing the socket, so that none ends with a picture in hand.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as server, server.makefile("rb") as incoming:
        settings = read(incoming)
        if settings is None:
            return
        try:
            loaded = classifiers.load_checked(settings, threads=1)
        except BundleError as error:
            server.sendall(frame(error))
            return
        try:
            server.sendall(frame(Loaded(loaded.bundle, loaded.model.runtime)))
            _serve(server, incoming, loaded)
        except (BrokenPipeError, ConnectionResetError):  # the server died: nobody is left to answer
            return


def _serve(server: socket.socket, incoming: BinaryIO, loaded: Classifier) -> None:
    infer = loaded.session()
    while (picture := read(incoming)) is not None:
        server.sendall(frame(_classify(loaded, infer, picture)))


def _classify(loaded: Classifier, infer: Session, picture: Picture) -> Outcome:
    begun = time.perf_counter()
    try:
        prepared = loaded.prepare(picture)
        decoded = time.perf_counter()
        row = infer(prepared[np.newaxis])[0]
    except ModelServerError as error:
        return Outcome(error, time.perf_counter() - begun, 0.0)
    except Exception:  # noqa: BLE001 - the server logs it and answers; the worker lives on
        return Outcome(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"), 0.0, 0.0)
    return Outcome(row, decoded - begun, time.perf_counter() - decoded)


if __name__ == "__main__":
    main()
