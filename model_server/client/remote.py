"""A model behind a URL, asked over KServe V1."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

from model_server.client.files import Answer
from model_server.client.server import Server
from model_server.errors import Unavailable
from model_server.schema import MODEL_VERSION_HEADER

PARALLEL = 4
"""Requests in flight: enough to keep a small server busy, few enough to leave room for its other callers."""
PREDICTION_FIELDS = {"label", "index", "score", "top"}


class RemoteModel:
    """One model of a server; raises Unavailable where the server cannot be reached or stays overloaded."""

    parallel = PARALLEL

    def __init__(self, url: str, model: str | None, top_k: int, token: str | None = None) -> None:
        """Check the URL and, where no model is named, ask the server for its only one."""
        self._server = Server(url, token=token)
        self._top_k = top_k
        self.name = model or self._server.only_model()

    def classify(self, data: bytes) -> Answer:
        """Classify one encoded image; the server's refusal of it becomes InvalidInput."""
        instance = {"b64": base64.b64encode(data).decode()}
        body = json.dumps({"instances": [instance], "parameters": {"top_k": self._top_k}}).encode()
        path = f"/v1/models/{quote(self.name, safe='')}:predict"
        reply = self._server.ask("POST", path, body, {"Content-Type": "application/json"})
        match self._server.document(reply):
            case {"predictions": [dict() as prediction]} if prediction.keys() >= PREDICTION_FIELDS:
                return Answer(prediction, reply.headers.get(MODEL_VERSION_HEADER, ""))  # type: ignore[arg-type]
        raise Unavailable(f"The model {self.name} at {self._server.url} does not answer with classes.")
