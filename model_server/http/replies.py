"""Replies of our own services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, overload

import orjson
from starlette.responses import Response, StreamingResponse


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON reply that no cache keeps."""
    return Response(orjson.dumps(content), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


async def picture_response(pieces: AsyncIterator[bytes], size: int, media_type: str, sha256: bytes) -> Response:
    """Return what a stranger sent, to be shown as an image or not at all; it is read as its reader takes it.

    What the first piece raises is raised here, while there is still a status to say it with.
    """
    first = await anext(pieces, b"")

    async def all_pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    headers = {
        "Content-Length": str(size),
        "ETag": f'"{sha256.hex()}"',
        "Cache-Control": "private, max-age=3600",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return StreamingResponse(all_pieces(), headers=headers, media_type=media_type)


@overload
def timestamp(moment: datetime) -> str: ...
@overload
def timestamp(moment: None) -> None: ...
def timestamp(moment: datetime | None) -> str | None:
    """Return a moment in UTC as JSON has it: RFC 3339, to the millisecond."""
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
