"""What the feedback service measures about itself, in Prometheus terms."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

REQUESTS = Counter(
    "model_server_feedback_requests", "Requests answered, by route and HTTP status.", ["route", "status"]
)
REQUEST_SECONDS = Histogram(
    "model_server_feedback_request_seconds", "From the headers to the last byte.", ["route"], buckets=_SECONDS
)
LOGINS = Counter("model_server_feedback_logins", "Logins: succeeded, refused, limited (429).", ["outcome"])
REGISTRATIONS = Counter(
    "model_server_feedback_registrations", "New accounts: made, taken (409), limited (429).", ["outcome"]
)
