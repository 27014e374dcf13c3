"""Short questions to the services of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """What a service answers."""

    status: int
    headers: Message
    body: bytes


def get(url: str) -> Reply:
    """Return the answer to GET; raises OSError or HTTPException."""
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", address.path)
        reply = connection.getresponse()
        return Reply(reply.status, reply.headers, reply.read())
    finally:
        connection.close()
