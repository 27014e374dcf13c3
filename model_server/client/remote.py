"""A model behind a URL, asked over KServe V1 with connections that are kept open."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from model_server.client.files import Answer
from model_server.errors import InvalidInput, ModelServerError, NotFound, Unavailable
from model_server.schema import MODEL_VERSION_HEADER

PARALLEL = 4
"""Requests in flight: enough to keep a small server busy, few enough to leave room for its other callers."""
ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 10
TIMEOUT_SECONDS = 60
PREDICTION_FIELDS = {"label", "index", "score", "top"}


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: Message
    body: bytes


class RemoteModel:
    """One model of a server; raises Unavailable where the server cannot be reached or stays overloaded."""

    parallel = PARALLEL

    def __init__(self, url: str, model: str | None, top_k: int) -> None:
        """Check the URL and, where no model is named, ask the server for its only one."""
        self._address = _address(url)
        self._url = url.rstrip("/")
        self._top_k = top_k
        self._of_thread = threading.local()
        self.name = model or self._only_model()

    def classify(self, data: bytes) -> Answer:
        """Classify one encoded image; the server's refusal of it becomes InvalidInput."""
        instance = {"b64": base64.b64encode(data).decode()}
        body = json.dumps({"instances": [instance], "parameters": {"top_k": self._top_k}}).encode()
        reply = self._ask("POST", f"/v1/models/{quote(self.name, safe='')}:predict", body)
        match self._document(reply):
            case {"predictions": [dict() as prediction]} if prediction.keys() >= PREDICTION_FIELDS:
                return Answer(prediction, reply.headers.get(MODEL_VERSION_HEADER, ""))  # type: ignore[arg-type]
        raise Unavailable(f"The model {self.name} at {self._url} does not answer with classes.")

    def _only_model(self) -> str:
        match self._document(self._ask("GET", "/v1/models")):
            case {"models": [str(name)]}:
                return name
            case {"models": [*names]}:
                raise InvalidInput(
                    f"{self._url} has {len(names)} models; choose by --model: {', '.join(map(str, names))}."
                )
        raise Unavailable(f"{self._url} does not answer as a KServe model server.")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> _Reply:
        for attempt in range(1, ATTEMPTS + 1):
            reply = self._exchange(method, path, body)
            if reply.status == HTTPStatus.OK:
                return reply
            if reply.status != HTTPStatus.SERVICE_UNAVAILABLE or attempt == ATTEMPTS:
                break
            time.sleep(_wait_seconds(reply.headers.get("Retry-After", "")))
        raise self._refusal(reply)

    def _exchange(self, method: str, path: str, body: bytes | None) -> _Reply:
        connection = self._connection()
        kept_open = connection.sock is not None
        try:
            return _send(connection, method, self._address.path.rstrip("/") + path, body)
        except (OSError, HTTPException, UnicodeError) as error:
            connection.close()
            # A server closes a connection that was idle for long; that says nothing about a new one.
            if kept_open and isinstance(error, ConnectionError):
                return self._exchange(method, path, body)
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(f"{self._url} cannot be reached: {reason}.") from None

    def _connection(self) -> HTTPConnection:
        if not hasattr(self._of_thread, "connection"):
            kind = HTTPSConnection if self._address.scheme == "https" else HTTPConnection
            self._of_thread.connection = kind(self._address.hostname or "", self._address.port, timeout=TIMEOUT_SECONDS)
        connection: HTTPConnection = self._of_thread.connection
        return connection

    def _document(self, reply: _Reply) -> Any:
        try:
            return json.loads(reply.body)
        except ValueError:
            raise Unavailable(f"{self._url} does not answer as a KServe model server.") from None

    def _refusal(self, reply: _Reply) -> ModelServerError:
        try:
            message = str(json.loads(reply.body)["error"]).removeprefix("instances[0]: ")
        except (ValueError, TypeError, KeyError):
            message = f"{self._url} answered with status {reply.status}."
        if reply.status == HTTPStatus.NOT_FOUND:
            return NotFound(message)
        if reply.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return Unavailable(message)
        return InvalidInput(message)


def _address(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        valid = address.scheme in {"http", "https"} and bool(address.hostname) and address.port != 0
    except ValueError:
        valid = False
    if not valid or address.query or address.fragment:
        raise InvalidInput(f"{url!r} is not the URL of a server; one looks like http://127.0.0.1:8080.")
    return address


def _send(connection: HTTPConnection, method: str, path: str, body: bytes | None) -> _Reply:
    # A server that refuses a body may close before it has read all of it; its reply is there to be read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    return _Reply(response.status, response.headers, response.read())


def _wait_seconds(retry_after: str) -> int:
    return min(int(retry_after), LONGEST_WAIT_SECONDS) if retry_after.isdecimal() else 1
