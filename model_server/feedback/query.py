"""Query parameters and identifiers of the feedback routes, checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from uuid import UUID

from model_server.errors import InvalidInput, NotFound, shown
from model_server.http import numbers
from model_server.store.report import Scope

LONGEST = 255


def scope(given: Mapping[str, str]) -> Scope:
    """Return what ``model``, ``version``, ``from`` and ``to`` choose; raises InvalidInput."""
    first, last = day(given, "from"), day(given, "to")
    if first and last and first > last:
        raise InvalidInput("from is a day after to.")
    return Scope(name(given, "model"), name(given, "version"), first, last)


def name(given: Mapping[str, str], key: str) -> str | None:
    """Return a name, None where it is left out; raises InvalidInput."""
    value = given.get(key)
    if value is not None and ("\0" in value or len(value) > LONGEST):
        raise InvalidInput(f"{key} is a name of at most {LONGEST} characters.")
    return value


def day(given: Mapping[str, str], key: str) -> date | None:
    """Return a day such as 2026-01-31, None where it is left out; raises InvalidInput."""
    value = given.get(key)
    if value is None:
        return None
    found = numbers.day(value)
    if found is None:
        raise InvalidInput(f"{key} is a day such as 2026-01-31, in UTC, not {shown(value)}.")
    return found


def flag(given: Mapping[str, str], key: str) -> bool:
    """Return whether a parameter is ``true``; raises InvalidInput."""
    value = given.get(key, "false")
    if value not in {"true", "false"}:
        raise InvalidInput(f"{key} is true or false, not {shown(value)}.")
    return value == "true"


def identifier(text: str) -> UUID:
    """Return the id in a path; raises NotFound."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no feedback {shown(text)}.") from None
