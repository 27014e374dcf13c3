"""Counting HTTP inferences by protocol."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus

from prometheus_client import Counter, Gauge, Histogram
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
            _in_flight(protocol).inc()
        return protocol

    def end(self, label: str, status: int, seconds: float) -> None:
        """Count the answered request by status; observe its duration."""
        _in_flight(label).dec()
        _requests(label, status).inc()
        if status >= HTTPStatus.BAD_REQUEST:
            metrics.ERRORS.labels(label, str(status)).inc()
        _seconds(label).observe(seconds)


# Looking a labelled child up costs more than counting with it.
@cache
def _requests(label: str, status: int) -> Counter:
    return metrics.REQUESTS.labels(label, str(status))


@cache
def _seconds(label: str) -> Histogram:
    return metrics.REQUEST_SECONDS.labels(label)


@cache
def _in_flight(label: str) -> Gauge:
    return metrics.IN_FLIGHT.labels(label)
