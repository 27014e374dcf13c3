"""Reading request bodies within limits."""

from __future__ import annotations

import asyncio
import sys

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from model_server.config import ServiceSettings
from model_server.errors import Overloaded, PayloadTooLarge, RequestTimeout, UnsupportedMediaType, shown
from model_server.http.numbers import bounded_integer

JSON_TYPES = {
    "",
    "application/json",
    "application/ld+json",
    "application/octet-stream",  # what the KServe SDK reads as JSON too
    "application/x-www-form-urlencoded",  # what `curl -d` says, and so most examples of TensorFlow Serving
}

SMALL = 64 * 1024
"""``most`` of routes that take a few fields and no picture, bytes."""


def header(scope: Scope, name: bytes) -> str:
    """Return the first value of a header, by its name in lower case; empty where it is absent."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""


class Buffer:
    """How many bytes of bodies and replies a process holds, all requests together: at most ``most``, or one of any.

    What has arrived counts, not what is announced: whoever announces much and sends nothing keeps nobody out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def check(self, size: int, own: int) -> None:
        """Raise Overloaded where there is no room for more bytes of a request that has ``own`` already."""
        if self._held > own and self._held + size > self._most:
            raise Overloaded("The server holds as many bytes of requests and replies as it may. Try again later.")

    def take(self, size: int) -> None:
        """Count bytes that are held."""
        self._held += size

    def give_back(self, size: int) -> None:
        """Count bytes that are not held any more."""
        self._held -= size


class Share:
    """What one request holds of the buffer."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._held = 0

    def check(self, size: int) -> None:
        """Raise Overloaded where there is no room for so many bytes more."""
        self._buffer.check(size, self._held)

    def take(self, size: int) -> None:
        """Hold more; raises Overloaded where there is no room."""
        self.check(size)
        self.add(size)

    def add(self, size: int) -> None:
        """Hold more, whether there is room or not: it is there already."""
        self._buffer.take(size)
        self._held += size

    def remove(self, size: int) -> None:
        """Hold less."""
        self._buffer.give_back(size)
        self._held -= size

    def close(self) -> None:
        """Hold nothing any more."""
        self.remove(self._held)


SHARE = "model_server.share"
"""In the scope: the request's Share, released at its end at the latest."""


async def read(scope: Scope, receive: Receive, settings: ServiceSettings, most: int | None = None) -> bytes:
    """Read the body, which counts as held until the request ends or ``release``.

    ``most``: the limit, bytes, of a route that needs less than ``max_body_bytes``.

    Raises PayloadTooLarge as soon as it is known to be too long, Overloaded as soon as it is known that there is no
    room for it, both before it is read where its length is announced; RequestTimeout if it stalls.
    """
    limit = min(settings.max_body_bytes, most or settings.max_body_bytes)
    announced = check_announced(scope, limit)
    share: Share = scope[SHARE]
    share.check(announced)
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            return await _read_parts(receive, limit, share)
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {settings.body_timeout_seconds:g} s.") from None


def release(scope: Scope) -> None:
    """Say that the request's body is not held any more, though the request goes on."""
    share: Share = scope[SHARE]
    share.close()


def check_room(scope: Scope, size: int) -> None:
    """Raise Overloaded where there is no room for so many bytes of a reply."""
    share: Share = scope[SHARE]
    share.check(size)


def check_announced(scope: Scope, limit: int) -> int:
    """Return ``Content-Length``, 0 where there is none; raises PayloadTooLarge where it is above the limit, bytes."""
    announced = bounded_integer(header(scope, b"content-length"), 0, sys.maxsize) or 0
    if announced > limit:
        raise PayloadTooLarge(f"The body has {announced:,} bytes; at most {limit:,} are allowed.")
    return announced


async def _read_parts(receive: Receive, limit: int, share: Share) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise PayloadTooLarge(f"The body has more than the {limit:,} bytes that are allowed.")
        share.take(len(parts[-1]))
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def media_type(scope: Scope) -> str:
    """Return the content type in lower case without parameters; raises UnsupportedMediaType for a charset not UTF-8."""
    kind, _, parameters = header(scope, b"content-type").lower().partition(";")
    if "charset" in parameters and "utf-8" not in parameters and "utf8" not in parameters:
        raise UnsupportedMediaType(f"The charset in {shown(parameters.strip())} is not read; JSON is UTF-8.")
    return kind.strip()
