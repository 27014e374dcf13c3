"""The names that requests are counted under: the beginnings of their paths."""

from __future__ import annotations

NAMES = frozenset(
    {
        "/api/v1/health",
        "/api/v1/statistics",
        "/feedback",
        "/inference",
        "/inference/image",
        "/login",
        "/model/predict",
        "/models",
        "/predict",
        "/predictions",
        "/user",
        "/v1/models",
        "/v1/predictions",
        "/v1/queue",
        "/v1/quotas",
        "/v1/usage",
        "/v2",
    }
)


def name_of(path: str) -> str | None:
    """Return the longest name that a path begins with, None for what is not counted, such as probes and the page."""
    while path and path not in NAMES:
        path = path.rpartition("/")[0]
    return path or None
