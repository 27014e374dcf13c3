"""The peer of the predictor benchmark: the same classifier as a custom predictor written as the SDK's guide shows.

Example: python stress_test/peer_kserve.py --http_port 8090 --model_dir DIR
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import kserve

from model_server import classifier, image


class Peer(kserve.Model):  # type: ignore[misc]
    """Synchronous predict on the event loop, single images."""

    def __init__(self, model_dir: Path) -> None:
        super().__init__("peer")
        self._classifier = classifier.load(model_dir, "auto", 1, image.Limits(2**24, 2**26))
        self._infer = self._classifier.session()
        self.ready = True

    def predict(self, payload: Any, headers: Any = None) -> dict[str, Any]:  # noqa: ARG002 - the SDK passes them
        data = [payload] if isinstance(payload, bytes) else [base64.b64decode(i["b64"]) for i in payload["instances"]]
        rows = [self._infer(self._classifier.prepare(item)[None])[0] for item in data]
        return {"predictions": [classifier.rank(self._classifier.bundle.labels, row, 5) for row in rows]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", type=Path, required=True)
    arguments, _ = parser.parse_known_args()
    kserve.ModelServer(enable_grpc=False).start([Peer(arguments.model_dir)])
