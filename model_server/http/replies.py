"""Replies of our own services."""

from __future__ import annotations

from datetime import datetime
from typing import Any, overload

import orjson
from starlette.responses import Response


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON reply that no cache keeps."""
    return Response(orjson.dumps(content), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def picture_response(content: bytes, media_type: str, sha256: bytes) -> Response:
    """Return what a stranger sent, to be shown as an image or not at all."""
    headers = {
        "ETag": f'"{sha256.hex()}"',
        "Cache-Control": "private, max-age=3600",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return Response(content, headers=headers, media_type=media_type)


@overload
def timestamp(moment: datetime) -> str: ...
@overload
def timestamp(moment: None) -> None: ...
def timestamp(moment: datetime | None) -> str | None:
    """Return a moment in UTC as JSON has it: RFC 3339, to the millisecond."""
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
