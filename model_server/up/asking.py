"""Short questions to the services of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5
PREDICTION_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answers."""

    status: int
    headers: Message
    body: bytes


def get(url: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return the answer to GET; raises OSError or HTTPException."""
    return _ask("GET", url, None, headers or {}, TIMEOUT_SECONDS)


def post(url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
    """Return the answer to POST; raises OSError or HTTPException."""
    return _ask("POST", url, body, headers, PREDICTION_SECONDS)


def _ask(method: str, url: str, body: bytes | None, headers: Mapping[str, str], seconds: float) -> Reply:
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=seconds)
    try:
        connection.request(method, address.path, body, headers)
        reply = connection.getresponse()
        return Reply(reply.status, reply.headers, reply.read())
    finally:
        connection.close()
