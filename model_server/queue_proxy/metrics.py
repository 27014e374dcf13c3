"""What the queue-proxy measures about itself, in Prometheus terms."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)

REQUESTS = Counter(
    "model_server_queue_proxy_requests", "Requests answered, by route and HTTP status.", ["route", "status"]
)
REQUEST_SECONDS = Histogram(
    "model_server_queue_proxy_request_seconds", "From the headers to the last byte.", ["route"], buckets=_SECONDS
)
QUEUED = Gauge("model_server_queue_proxy_queued", "Predictions that wait, all replicas together.")
RUNNING = Gauge("model_server_queue_proxy_running", "Predictions being made, all replicas together.")
OLDEST_AGE_SECONDS = Gauge("model_server_queue_proxy_oldest_age_seconds", "Age of the oldest that waits; 0: none does.")
UNPUBLISHED = Gauge(
    "model_server_queue_proxy_unpublished", "Of those that wait, announcements that RabbitMQ has not confirmed."
)
SUBMITTED = Counter(
    "model_server_queue_proxy_submitted",
    "Predictions accepted: computed, collapsed (identical work was in flight), hit (a result was reused), "
    "repeated (a known idempotency key).",
    ["cache"],
)
ATTEMPTS = Counter(
    "model_server_queue_proxy_attempts",
    "Attempts at the predictor: succeeded, rejected (4xx), retried, away (nobody answered).",
    ["outcome"],
)
ATTEMPT_SECONDS = Histogram(
    "model_server_queue_proxy_attempt_seconds", "One answered attempt at the predictor.", buckets=_SECONDS
)
DISPATCH_SECONDS = Histogram(
    "model_server_queue_proxy_dispatch_seconds", "From acceptance to an attempt's begin.", buckets=_SECONDS
)
RESULTS = Counter(
    "model_server_queue_proxy_results", "Predictions that ended: succeeded, failed, cancelled.", ["status"]
)
DISCARDED = Counter(
    "model_server_queue_proxy_discarded", "Results not written: the prediction was cancelled or is run elsewhere."
)
IN_FLIGHT = Gauge("model_server_queue_proxy_dispatch_in_flight", "Predictions this process has at the predictor.")
CIRCUIT_OPEN = Gauge("model_server_queue_proxy_circuit_open", "1 while the dispatcher holds back: predictor away.")
PREDICTOR_REQUESTS = Counter(
    "model_server_queue_proxy_predictor_requests", "Requests sent to each predictor, queued ones too.", ["predictor"]
)
PREDICTOR_AWAY = Gauge(
    "model_server_queue_proxy_predictor_away",
    "1 while a predictor of little weight is away, and the heaviest does its work.",
    ["predictor"],
)
PREDICTOR_WEIGHT = Gauge(
    "model_server_queue_proxy_predictor_weight",
    "Share of the callers that a predictor gets, to the sum of all; 0: it finishes what it has, and goes.",
    ["predictor"],
)
SYNC_IN_FLIGHT = Gauge("model_server_queue_proxy_sync_in_flight", "Synchronous requests at the predictor.")
SYNC_WAITING = Gauge("model_server_queue_proxy_sync_waiting", "Synchronous requests that wait for a slot.")
SYNC_CACHE = Counter(
    "model_server_queue_proxy_sync_cache",
    "Synchronous predictions by Cache-Status: hit, collapsed, miss, request (made anew).",
    ["status"],
)
CALLBACKS = Counter("model_server_queue_proxy_callbacks", "Callbacks tried: delivered, retried, given_up.", ["outcome"])
CALLBACKS_WAITING = Gauge("model_server_queue_proxy_callbacks_waiting", "Callbacks neither delivered nor given up.")
FORWARDED = Counter("model_server_queue_proxy_forwarded", "Results sent to the sink: delivered, retried.", ["outcome"])
FORWARDING_WAITING = Gauge("model_server_queue_proxy_forwarding_waiting", "Results that the sink has not confirmed.")
BACKGROUND_FAILING = Gauge(
    "model_server_queue_proxy_background_failing",
    "1 while a piece of background work fails: it is tried again and again, and the log says why.",
    ["task"],
)
REMOVED = Counter("model_server_queue_proxy_removed", "Removed after the retention: prediction, image.", ["kind"])
