"""The OpenAPI document of every route that the queue-proxy answers itself, or passes to the predictor."""

from __future__ import annotations

from collections.abc import Mapping

from model_server.http.openapi import Api, Content, Operations, header, path_parameter, query
from model_server.queue_proxy.drop_in import openapi as drop_in

RESOURCE = {"$ref": "#/components/schemas/Prediction"}

PREFER_WAIT = header("Prefer", "`wait=N`: answer when it has ended, after N seconds at the latest (RFC 7240).")
PREFER = header("Prefer", "`respond-async[, wait=N]`: queue it, and wait up to N seconds for its end (RFC 7240).")
ID = path_parameter("id", type="string", format="uuid")
MODEL = path_parameter("model")
USER = path_parameter("user", type="string", format="uuid")
SUBMIT_HEADERS = [
    PREFER,
    header("Idempotency-Key", "The same key and body give the same prediction."),
    header("Priority", "`u=0` to `u=7`, the lower the sooner; 3 without (RFC 9218)."),
    header("Prediction-Deadline", "Seconds after which the prediction is not made any more."),
    header("Cache-Control", "`no-cache`: compute, whatever identical work has found."),
    header("Callback-Url", "Where to send the finished prediction, signed by the Standard Webhooks rules."),
]
INSTANCES = {"type": "object", "required": ["instances"], "properties": {"instances": {"type": "array", "items": {}}}}
BINARY = {"schema": {"type": "string", "format": "binary"}}
PREDICT_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": INSTANCES},
        "image/*": BINARY,
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": BINARY["schema"]}}},
    },
}
USAGE = {
    "type": "object",
    "required": ["from", "to", "usage"],
    "properties": {
        "from": {"type": "string", "format": "date"},
        "to": {"type": "string", "format": "date"},
        "usage": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "user_id": {"type": ["string", "null"], "description": "null: those unknown, together."},
                    "day": {"type": "string", "format": "date"},
                    "requests": {"type": "integer"},
                    "images": {"type": "integer"},
                    "compute_seconds": {"type": "number", "description": "At the predictor."},
                    "bytes": {"type": "integer", "description": "Of request bodies."},
                },
            },
        },
    },
}
QUOTA = {
    "type": "object",
    "description": "null: what everybody may; 0: no limit.",
    "properties": {
        "requests_per_second": {"type": ["number", "null"]},
        "burst": {"type": ["integer", "null"]},
        "images_per_day": {"type": ["integer", "null"]},
    },
}
PATHS: Operations = {
    ("post", "/v1/models/{model}:predict"): (
        "Classify images, now or, with `Prefer: respond-async`, later.",
        [200, 202, 400, 401, 404, 408, 413, 415, 422, 429, 502, 503, 504],
        [MODEL, *SUBMIT_HEADERS],
    ),
    ("get", "/v1/models"): ("List the predictor's models.", [200, 502, 503, 504], []),
    ("get", "/v1/models/{model}"): ("Whether a model is ready.", [200, 404, 502, 503, 504], [MODEL]),
    ("post", "/v2/models/{model}/infer"): (
        "Classify by the Open Inference Protocol, now or, with `Prefer: respond-async`, later.",
        [200, 202, 400, 401, 404, 408, 413, 415, 422, 429, 502, 503, 504],
        [MODEL, *SUBMIT_HEADERS],
    ),
    ("get", "/v2/models/{model}"): ("Metadata of a model.", [200, 404, 502, 503, 504], [MODEL]),
    ("get", "/v2/models/{model}/ready"): ("Whether a model is ready.", [200, 404, 502, 503, 504], [MODEL]),
    ("get", "/v2/health/ready"): ("Whether the predictor is ready.", [200, 502, 503, 504], []),
    ("get", "/v2/health/live"): ("Whether the predictor is alive.", [200, 502, 503, 504], []),
    ("get", "/v1/predictions"): (
        "List one's own predictions, newest first; an administrator, everybody's.",
        [200, 400, 401, 503],
        [query("status", "Only those."), query("limit", "1 to 100, 20 without."), query("cursor", "`next_cursor`.")],
    ),
    ("get", "/v1/predictions/{id}"): ("One prediction.", [200, 401, 404, 410, 503], [ID, PREFER_WAIT]),
    ("delete", "/v1/predictions/{id}"): ("Cancel a queued or running one.", [200, 401, 404, 409, 410, 503], [ID]),
    ("get", "/v1/predictions/{id}/image"): ("The image as it was sent.", [200, 401, 404, 410, 503], [ID]),
    ("get", "/v1/predictions/{id}/events"): (
        "A server-sent event for each change of status, the present one first.",
        [200, 401, 404, 410, 503],
        [ID],
    ),
    ("get", "/v1/queue"): ("Depth and age of the queue, for an autoscaler.", [200, 503], []),
    ("get", "/v1/usage"): (
        "What one took, by day, newest first; an administrator, everybody.",
        [200, 400, 401, 403, 404, 503],
        [
            query("from", "First day, UTC; 30 days in all without.", type="string", format="date"),
            query("to", "Last day, UTC; today without.", type="string", format="date"),
            query("user", "Only that one's.", type="string", format="uuid"),
            query("limit", "Rows, 1 to 10,000; 1,000 without."),
            query("offset", "Rows to leave out."),
        ],
    ),
    ("get", "/v1/quotas/{user}"): ("A user's own limits; for administrators.", [200, 401, 403, 404, 503], [USER]),
    ("put", "/v1/quotas/{user}"): (
        "Give a user limits of their own; for administrators.",
        [200, 400, 401, 403, 404, 408, 413, 503],
        [USER],
    ),
    ("delete", "/v1/quotas/{user}"): (
        "Give a user everybody's limits again; for administrators.",
        [204, 401, 403, 404, 503],
        [USER],
    ),
    ("get", "/healthz"): ("The process is alive.", [200], []),
    ("get", "/readyz"): ("The process and its database can work.", [200, 503], []),
    ("get", "/metrics"): ("Metrics in Prometheus' text format.", [200, 503], []),
    ("get", "/openapi.json"): ("This document.", [200], []),
    ("get", "/docs"): ("This document as a page.", [200], []),
    ("get", "/"): ("The web page.", [200, 404], []),
    ("get", "/my-feedback"): ("The page with one's own feedback.", [200], []),
    ("get", "/report"): ("The page with the report.", [200], []),
}
CONTENT: Mapping[str | tuple[str, str], Content] = {
    "/v1/predictions/{id}": {"application/json": {"schema": RESOURCE}},
    "/v1/predictions/{id}/image": {"image/*": BINARY},
    "/v1/predictions/{id}/events": {"text/event-stream": {"schema": {"type": "string"}}},
    "/v1/usage": {"application/json": {"schema": USAGE}},
    "/v1/quotas/{user}": {"application/json": {"schema": QUOTA}},
    "/metrics": {"text/plain": {"schema": {"type": "string"}}},
    "/docs": {"text/html": {"schema": {"type": "string"}}},
    **{page: {"text/html": {"schema": {"type": "string"}}} for page in ("/", "/my-feedback", "/report")},
}
POSITION = (
    "While it is queued: how many are taken before it. Behind 100 others or more, the reply that accepts it has an "
    "estimate, from the queue as it was up to half a second ago; a later GET has it exact."
)
ETA = "While it is queued: seconds until its end, from its position and the rate of the last hundred runs."
_TIME = {"type": ["string", "null"], "format": "date-time"}
_COUNT = {"type": ["integer", "null"]}
SCHEMAS = {
    "Prediction": {
        "type": "object",
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "status": {"enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
            "model": {"type": "string"},
            "model_version": {"type": ["string", "null"]},
            "created_at": _TIME,
            "started_at": _TIME,
            "finished_at": _TIME,
            "deadline": _TIME,
            "attempts": {"type": "integer"},
            "position": {**_COUNT, "description": POSITION},
            "eta_seconds": {"type": ["number", "null"], "description": ETA},
            "predictions": {"type": ["array", "null"], "items": {"type": "object"}},
            "error": {"type": ["object", "null"]},
            "image_sha256": {"type": ["string", "null"]},
            "links": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
}

OWN_BODIES = {
    ("put", "/v1/quotas/{user}"): {"required": True, "content": {"application/json": {"schema": QUOTA}}},
}

API = Api(
    "model-server queue-proxy",
    {**PATHS, **drop_in.OPERATIONS},
    bodies={**{key: PREDICT_BODY for key in PATHS if key[1].endswith(":predict")}, **OWN_BODIES, **drop_in.BODIES},
    content={**CONTENT, **drop_in.CONTENT},
    schemas=SCHEMAS,
)
