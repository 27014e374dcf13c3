"""Requests as bytes: whatever somebody may send, and what comes back."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

CRLF = b"\r\n"


@contextlib.contextmanager
def connected(url: str, seconds: float = 20) -> Iterator[socket.socket]:
    """Connect to a server; a read that takes longer fails."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=seconds) as connection:
        yield connection


def head(method: str, path: str, *fields: str, version: str = "1.1") -> bytes:
    """Return a request's head."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *fields, "", ""]).encode("latin-1")


def chunked(content: bytes, *trailers: str) -> bytes:
    """Return a body in two chunks."""
    half = len(content) // 2
    parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:half], content[half:]) if part]
    return b"".join([*parts, b"0\r\n", *(line.encode() + CRLF for line in trailers), CRLF])


def read_reply(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Return status, fields, names in lower case, and content of the next reply, and read no further."""
    lines = b""
    while not lines.endswith(CRLF * 2):
        lines += _some(connection, 1)
    first, *others = lines.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in others)}
    content = b""
    while len(content) < int(fields["content-length"]):
        content += _some(connection, int(fields["content-length"]) - len(content))
    return int(first.split()[1]), fields, content


def all_statuses(connection: socket.socket, quiet_seconds: float = 0.3) -> tuple[list[int], bool]:
    """Return the statuses of all replies until nothing more comes, and whether the server closed the connection."""
    received, is_closed = b"", False
    connection.settimeout(quiet_seconds)
    with contextlib.suppress(TimeoutError):
        while not is_closed:
            part = connection.recv(65536)
            received += part
            is_closed = not part
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)], is_closed


def seconds_until_closed(connection: socket.socket) -> float:
    """Return how long the server keeps a connection that nothing is sent on."""
    begun = time.monotonic()
    while connection.recv(65536):
        pass
    return time.monotonic() - begun


def _some(connection: socket.socket, most: int) -> bytes:
    part = connection.recv(most)
    assert part, "the connection was closed before the reply was complete"
    return part
