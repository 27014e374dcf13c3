"""Pages of a list that is ordered by its identifiers, newest first."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from starlette.requests import Request

from model_server.errors import InvalidInput, shown
from model_server.http.numbers import bounded_integer

DEFAULT_PAGE, LARGEST_PAGE = 20, 100


def limit(request: Request) -> int:
    """Return the query's ``limit``, 1 to 100, 20 without; raises InvalidInput."""
    given = request.query_params.get("limit")
    if given is None:
        return DEFAULT_PAGE
    number = bounded_integer(given, 1, LARGEST_PAGE)
    if number is None:
        raise InvalidInput(f"limit is an integer of 1 to {LARGEST_PAGE}, not {shown(given)}.")
    return number


def cursor(request: Request) -> UUID | None:
    """Return the identifier that the query's ``cursor`` stands for; raises InvalidInput."""
    given = request.query_params.get("cursor")
    if given is None:
        return None
    try:
        return UUID(bytes=base64.b64decode(f"{given}==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise InvalidInput("cursor is not one that a page of this list gave.") from None


def next_cursor(rows: Sequence[Any], most: int) -> str | None:
    """Return the cursor of the page after the first ``most`` of ``rows``, None where there are no more."""
    if len(rows) <= most:
        return None
    return cursor_after(rows[most - 1])


def cursor_after(row: Any) -> str:
    """Return the cursor of the page after the one that ends with ``row``."""
    return base64.urlsafe_b64encode(row.id.bytes).decode().rstrip("=")
