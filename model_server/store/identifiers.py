"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import os
import time
from uuid import UUID

PLACES = 1 << 14
"""Of the last 14 bits of an id: where its caller stands among those that several predictors share."""


def new_id(place: int | None = None) -> UUID:
    """Return a UUIDv7: milliseconds since 1970, chance (RFC 9562, section 5.7), and ``place`` in the last bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 7 << 76
    if place is not None:
        value = value & ~(PLACES - 1) | place
    return UUID(int=value & ~(3 << 62) | 2 << 62)


def place_in(identifier: UUID) -> int:
    """Return the place that an id was made with."""
    return identifier.int % PLACES
