"""Request headers with a grammar of their own: Prefer, Priority, Cache-Control, deadlines, trace context."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.types import Scope

from model_server.errors import InvalidInput, shown
from model_server.http.body import header
from model_server.http.numbers import bounded_number
from model_server.store.queue.interface import HIGHEST_URGENCY, LOWEST_URGENCY

DEFAULT_URGENCY = 3
"""RFC 9218, section 4.1."""
URGENCIES = frozenset(str(urgency) for urgency in range(HIGHEST_URGENCY, LOWEST_URGENCY + 1))
DEADLINE_HEADER = "Prediction-Deadline"
IDEMPOTENCY_HEADER = "Idempotency-Key"
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e ]{1,255}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a caller prefers (RFC 7240); ``wait_seconds`` is within our limit, None where it was not given."""

    respond_async: bool = False
    wait_seconds: float | None = None

    @property
    def applied(self) -> str:
        """Value of ``Preference-Applied``."""
        names = ["respond-async"] if self.respond_async else []
        if self.wait_seconds is not None:
            names.append(f"wait={self.wait_seconds:g}")
        return ", ".join(names)


def preferences(scope: Scope, most_seconds: float) -> Preferences:
    """Read ``Prefer``; a preference that is unknown or malformed is ignored, as the RFC demands."""
    respond_async, wait = False, None
    for part in all_values(scope, b"prefer").split(","):
        name, _, value = part.partition(";")[0].partition("=")
        if name.strip().lower() == "respond-async":
            respond_async = True
        elif name.strip().lower() == "wait" and wait is None:
            wait = bounded_number(value.strip().strip('"'), most_seconds)
    return Preferences(respond_async, wait)


def all_values(scope: Scope, name: bytes) -> str:
    """Return every value of a header, joined by commas."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def urgency(scope: Scope) -> int:
    """Return ``u`` of ``Priority``, 0..7, the lower the sooner; malformed ones count as 3 (RFC 9218, section 4)."""
    for part in all_values(scope, b"priority").split(","):
        name, _, value = part.strip().partition("=")
        if name == "u" and value in URGENCIES:
            return int(value)
    return DEFAULT_URGENCY


def deadline(scope: Scope, default_seconds: float, most_seconds: float) -> float:
    """Return ``Prediction-Deadline`` in seconds from now, at most our limit; raises InvalidInput."""
    given = header(scope, DEADLINE_HEADER.lower().encode())
    if not given:
        return default_seconds
    seconds = bounded_number(given, most_seconds)
    if not seconds:
        raise InvalidInput(f"{DEADLINE_HEADER} is a number of seconds above 0, not {shown(given)}.")
    return seconds


def idempotency_key(scope: Scope) -> str | None:
    """Return the caller's key; raises InvalidInput where it is longer than 255 printable characters."""
    key = header(scope, IDEMPOTENCY_HEADER.lower().encode())
    if not key:
        return None
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput(f"{IDEMPOTENCY_HEADER} is 1 to 255 printable ASCII characters.")
    return key


def wants_fresh(scope: Scope) -> bool:
    """Whether ``Cache-Control`` asks for a result that is computed for this request."""
    directives = {part.strip().lower() for part in all_values(scope, b"cache-control").split(",")}
    return not directives.isdisjoint({"no-cache", "no-store", "max-age=0"})


def traceparent(scope: Scope) -> str | None:
    """Return the caller's trace context where it is well-formed."""
    given = header(scope, b"traceparent")
    return given if TRACEPARENT.fullmatch(given) else None
