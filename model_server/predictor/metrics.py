"""What the predictor measures about itself, in Prometheus terms."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, Info

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

REQUESTS = Counter(
    "model_server_predictor_requests",
    "Inference requests answered, by protocol (v1, v2, grpc) and HTTP status or gRPC code.",
    ["protocol", "status"],
)
ERRORS = Counter(
    "model_server_predictor_errors",
    "Inference requests that were not answered with a prediction, by protocol and status.",
    ["protocol", "status"],
)
IN_FLIGHT = Gauge("model_server_predictor_requests_in_flight", "Inference requests being answered.", ["protocol"])
REQUEST_SECONDS = Histogram(
    "model_server_predictor_request_seconds",
    "From the request's headers to the last byte of the reply.",
    ["protocol"],
    buckets=_SECONDS,
)
QUEUE_LENGTH = Gauge("model_server_predictor_queue_length", "Images waiting for a worker.")
BATCH_SIZE = Histogram(
    "model_server_predictor_batch_size", "Images in one inference.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
DECODE_SECONDS = Histogram(
    "model_server_predictor_decode_seconds", "Decoding and resizing one image.", buckets=_SECONDS
)
INFERENCE_SECONDS = Histogram(
    "model_server_predictor_inference_seconds", "One inference, whatever its batch size.", buckets=_SECONDS
)
WORKERS = Gauge("model_server_predictor_workers", "Worker processes that are ready for work.")
WORKER_RESTARTS = Counter(
    "model_server_predictor_worker_restarts", "Worker processes that ended at work and were replaced."
)
MODEL = Info("model_server_predictor_model", "The model that is served: name, version, runtime.")
READY = Gauge("model_server_predictor_ready", "1 while the golden check is passed and a worker lives, else 0.")
