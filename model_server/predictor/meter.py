"""Counting HTTP inferences by protocol."""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import Scope

from model_server.predictor import metrics


def protocol_of(method: str, path: str) -> str | None:
    """Return v1 or v2 for a path that infers, None for any other."""
    if method != "POST":
        return None
    if path.endswith(":predict"):
        return "v1"
    return "v2" if path.endswith("/infer") else None


class InferenceMeter:
    """Measures requests that infer, labelled v1 or v2."""

    def begin(self, scope: Scope) -> str | None:
        """Count the request as in flight; return its protocol, None where it does not infer."""
        protocol = protocol_of(scope["method"], scope["path"])
        if protocol:
            metrics.IN_FLIGHT.labels(protocol).inc()
        return protocol

    def end(self, label: str, status: int, seconds: float) -> None:
        """Count the answered request by status; observe its duration."""
        metrics.IN_FLIGHT.labels(label).dec()
        metrics.REQUESTS.labels(label, str(status)).inc()
        if status >= HTTPStatus.BAD_REQUEST:
            metrics.ERRORS.labels(label, str(status)).inc()
        metrics.REQUEST_SECONDS.labels(label).observe(seconds)
