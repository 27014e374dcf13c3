"""A model server behind a URL, asked with connections that are kept open and with patience where that helps."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from model_server.errors import InvalidInput, ModelServerError, NotFound, Unauthorized, Unavailable, shown

LONGEST_WAIT_SECONDS = 10
TIMEOUT_SECONDS = 60
BUSY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE})
PASSING = BUSY | {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}


@dataclass(frozen=True)
class Reply:
    """An answer that is no error."""

    status: int
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Patience:
    """How often a request is tried, after which statuses, and whether a lost connection is one of them."""

    attempts: int
    statuses: frozenset[HTTPStatus]
    losses: bool


ONCE_BUSY = Patience(5, BUSY, losses=False)
"""For a person at a terminal: an overloaded server gets time, one that is not there is reported at once."""


class Server:
    """One server; safe to be used by many threads, each with a connection of its own."""

    def __init__(self, url: str, patience: Patience = ONCE_BUSY, token: str | None = None) -> None:
        """Raise InvalidInput for what is not the URL of a server. ``token``: of a login, or an API key."""
        self._address = _address(url)
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience = patience
        self._of_thread = threading.local()
        self._closed = threading.Event()
        self.url = url.rstrip("/")

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Return the answer; raises Unavailable at the end of the patience, Unauthorized, NotFound, InvalidInput."""
        headers = {**self._authorization, **(headers or {})}
        for attempt in range(1, self._patience.attempts):
            try:
                reply = self._exchange(method, path, body, headers)
            except Unavailable:
                if not self._patience.losses:
                    raise
                self._pause(_wait_seconds("", attempt))
                continue
            if reply.status not in self._patience.statuses:
                return self._accept(reply)
            self._pause(_wait_seconds(reply.headers.get("Retry-After", ""), attempt))
        return self._accept(self._exchange(method, path, body, headers))

    def close(self) -> None:
        """End every pause between two attempts; what waits there raises Unavailable."""
        self._closed.set()

    def document(self, reply: Reply) -> Any:
        """Return the answer's JSON."""
        try:
            return json.loads(reply.body)
        except ValueError:
            raise self.foreign() from None

    def foreign(self) -> Unavailable:
        """Return the error for an answer that no server of ours gives."""
        return Unavailable(f"{self.url} does not answer as a KServe model server.")

    def only_model(self) -> str:
        """Return the name of its model; raises InvalidInput where it has none or several."""
        match self.document(self.ask("GET", "/v1/models")):
            case {"models": [str(name)]}:
                return name
            case {"models": [*names]}:
                raise InvalidInput(
                    f"{self.url} has {len(names)} models; choose by --model: {', '.join(map(str, names))}."
                )
        raise self.foreign()

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise Unavailable(f"{self.url} was not waited for any longer.")

    def _accept(self, reply: Reply) -> Reply:
        if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
            return reply
        raise self._refusal(reply)

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        connection = self._connection()
        kept_open = connection.sock is not None
        try:
            return _send(connection, method, self._address.path.rstrip("/") + path, body, headers)
        except (OSError, HTTPException, UnicodeError) as error:
            connection.close()
            # A server closes a connection that was idle for long; that says nothing about a new one.
            if kept_open and isinstance(error, ConnectionError):
                return self._exchange(method, path, body, headers)
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unavailable(f"{self.url} cannot be reached: {reason}.") from None

    def _connection(self) -> HTTPConnection:
        if not hasattr(self._of_thread, "connection"):
            kind = HTTPSConnection if self._address.scheme == "https" else HTTPConnection
            self._of_thread.connection = kind(self._address.hostname or "", self._address.port, timeout=TIMEOUT_SECONDS)
        connection: HTTPConnection = self._of_thread.connection
        return connection

    def _refusal(self, reply: Reply) -> ModelServerError:
        try:
            message = str(json.loads(reply.body)["error"]).removeprefix("instances[0]: ")
        except (ValueError, TypeError, KeyError):
            message = f"{self.url} answered with status {reply.status}."
        if reply.status == HTTPStatus.UNAUTHORIZED:
            return Unauthorized(message)
        if reply.status == HTTPStatus.NOT_FOUND:
            return NotFound(message)
        if reply.status in self._patience.statuses:
            return Unavailable(message)
        return InvalidInput(message)


def _address(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        valid = address.scheme in {"http", "https"} and bool(address.hostname) and address.port != 0
    except ValueError:
        valid = False
    if not valid or address.query or address.fragment:
        raise InvalidInput(f"{shown(url)} is not the URL of a server; one looks like http://127.0.0.1:8080.")
    return address


def _send(connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
    # A server that refuses a body may close before it has read all of it; its reply is there to be read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, headers)
    response = connection.getresponse()
    return Reply(response.status, response.headers, response.read())


def _wait_seconds(retry_after: str, attempt: int) -> float:
    """Return what the server asked for, else half to one and a half times 1, 2, 4 … seconds; within a limit."""
    seconds = float(retry_after) if retry_after.isdecimal() else 2.0 ** (attempt - 1) * (0.5 + random.random())  # noqa: S311
    return min(seconds, LONGEST_WAIT_SECONDS)
