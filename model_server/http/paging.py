"""Pages of a list that is ordered by its identifiers, newest first."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from starlette.requests import Request

from model_server.errors import InvalidInput

DEFAULT_PAGE, LARGEST_PAGE, MOST_DIGITS = 20, 100, 3


def limit(request: Request) -> int:
    """Return the query's ``limit``, 1 to 100, 20 without; raises InvalidInput."""
    given = request.query_params.get("limit")
    if given is None:
        return DEFAULT_PAGE
    if not (given.isascii() and given.isdecimal() and len(given) <= MOST_DIGITS and 1 <= int(given) <= LARGEST_PAGE):
        raise InvalidInput(f"limit is an integer of 1 to {LARGEST_PAGE}, not {given[:32]!r}.")
    return int(given)


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
    return base64.urlsafe_b64encode(rows[most - 1].id.bytes).decode().rstrip("=")
