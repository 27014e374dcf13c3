"""Numbers and days that come as text, in headers and queries: digits, and no more of them than the largest has."""

from __future__ import annotations

import re
from datetime import date

DIGITS = re.compile(r"[0-9]{1,19}")
DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?([eE]\+?[0-9]{1,3})?")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
FIRST_YEAR, LAST_YEAR = 1970, 9998


def bounded_integer(text: str, least: int, most: int) -> int | None:
    """Return an integer from ``least``, 0 or more, to ``most``, 19 digits or less; None for any other text."""
    if not DIGITS.fullmatch(text):
        return None
    number = int(text)
    return number if least <= number <= most else None


def bounded_number(text: str, most: float) -> float | None:
    """Return a decimal number from 0, ``most`` where it is above that; None for any other text, such as nan."""
    return min(float(text), most) if DECIMAL.fullmatch(text) else None


def day(text: str) -> date | None:
    """Return a day such as 2026-01-31, of 1970 or later; None for any other text."""
    try:
        found = date.fromisoformat(text) if DAY.fullmatch(text) else None
    except ValueError:
        return None
    return found if found and FIRST_YEAR <= found.year <= LAST_YEAR else None
