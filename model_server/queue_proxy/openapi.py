"""The OpenAPI document of every route, and a page that shows it without a line of script."""

from __future__ import annotations

import html
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from model_server import __version__
from model_server.http.replies import json_response

ERROR = {"$ref": "#/components/schemas/Error"}
RESOURCE = {"$ref": "#/components/schemas/Prediction"}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code{font-family:ui-monospace,monospace}dt{font-weight:600}h2{margin-top:2rem;font-size:1.1rem}"
)
MEANINGS = {
    200: "Done.",
    202: "Accepted and durable; `Location` says where the result will be.",
    400: "The request is malformed.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "It has ended already.",
    410: "It was removed after its retention.",
    413: "The body or an image is too large.",
    415: "The content type is not read.",
    422: "The idempotency key was used for another request.",
    502: "The predictor broke off.",
    503: "Not now; `Retry-After` says when to try again.",
    504: "The predictor did not answer in time.",
}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}


def _query(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "string"}, "description": description}


PREFER_WAIT = _header("Prefer", "`wait=N`: answer when it has ended, after N seconds at the latest (RFC 7240).")
PREFER = _header("Prefer", "`respond-async[, wait=N]`: queue it, and wait up to N seconds for its end (RFC 7240).")
ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
SUBMIT_HEADERS = [
    PREFER,
    _header("Idempotency-Key", "The same key and body give the same prediction."),
    _header("Priority", "`u=0` to `u=7`, the lower the sooner; 3 without (RFC 9218)."),
    _header("Prediction-Deadline", "Seconds after which the prediction is not made any more."),
    _header("Cache-Control", "`no-cache`: compute, whatever identical work has found."),
    _header("Callback-Url", "Where to send the finished prediction, signed by the Standard Webhooks rules."),
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
PATHS: dict[tuple[str, str], tuple[str, list[int], list[dict[str, Any]]]] = {
    ("post", "/v1/models/{model}:predict"): (
        "Classify images, now or, with `Prefer: respond-async`, later.",
        [200, 202, 400, 404, 408, 413, 415, 422, 502, 503, 504],
        [MODEL, *SUBMIT_HEADERS],
    ),
    ("get", "/v1/models"): ("List the predictor's models.", [200, 502, 503, 504], []),
    ("get", "/v1/models/{model}"): ("Whether a model is ready.", [200, 404, 502, 503, 504], [MODEL]),
    ("post", "/v2/models/{model}/infer"): (
        "Classify by the Open Inference Protocol, now or, with `Prefer: respond-async`, later.",
        [200, 202, 400, 404, 408, 413, 415, 422, 502, 503, 504],
        [MODEL, *SUBMIT_HEADERS],
    ),
    ("get", "/v2/models/{model}"): ("Metadata of a model.", [200, 404, 502, 503, 504], [MODEL]),
    ("get", "/v2/models/{model}/ready"): ("Whether a model is ready.", [200, 404, 502, 503, 504], [MODEL]),
    ("get", "/v2/health/ready"): ("Whether the predictor is ready.", [200, 502, 503, 504], []),
    ("get", "/v2/health/live"): ("Whether the predictor is alive.", [200, 502, 503, 504], []),
    ("get", "/v1/predictions"): (
        "List predictions, newest first.",
        [200, 400, 503],
        [_query("status", "Only those."), _query("limit", "1 to 100, 20 without."), _query("cursor", "`next_cursor`.")],
    ),
    ("get", "/v1/predictions/{id}"): ("One prediction.", [200, 404, 410, 503], [ID, PREFER_WAIT]),
    ("delete", "/v1/predictions/{id}"): ("Cancel a queued or running one.", [200, 404, 409, 410, 503], [ID]),
    ("get", "/v1/predictions/{id}/image"): ("The image as it was sent.", [200, 404, 410, 503], [ID]),
    ("get", "/v1/predictions/{id}/events"): (
        "A server-sent event for each change of status, the present one first.",
        [200, 404, 410, 503],
        [ID],
    ),
    ("get", "/v1/queue"): ("Depth and age of the queue, for an autoscaler.", [200, 503], []),
    ("get", "/healthz"): ("The process is alive.", [200], []),
    ("get", "/readyz"): ("The process and its database can work.", [200, 503], []),
    ("get", "/metrics"): ("Metrics in Prometheus' text format.", [200, 503], []),
    ("get", "/openapi.json"): ("This document.", [200], []),
    ("get", "/docs"): ("This document as a page.", [200], []),
    ("get", "/"): ("The web page.", [200, 404], []),
}
CONTENT = {
    "/v1/predictions/{id}": {"application/json": {"schema": RESOURCE}},
    "/v1/predictions/{id}/image": {"image/*": BINARY},
    "/v1/predictions/{id}/events": {"text/event-stream": {"schema": {"type": "string"}}},
    "/metrics": {"text/plain": {"schema": {"type": "string"}}},
    "/docs": {"text/html": {"schema": {"type": "string"}}},
    "/": {"text/html": {"schema": {"type": "string"}}},
}
POSITION = (
    "While it is queued: how many are taken before it. Behind 100 others or more, the reply that accepts it has an "
    "estimate, from the queue as it was up to half a second ago; a later GET has it exact."
)
ETA = "While it is queued: seconds until its end, from its position and the rate of the last hundred runs."
_TIME = {"type": ["string", "null"], "format": "date-time"}
_COUNT = {"type": ["integer", "null"]}
SCHEMAS = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
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


def build() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), (summary, statuses, parameters) in PATHS.items():
        operation = {
            "summary": summary,
            "parameters": parameters,
            "responses": {str(status): _response(path, status) for status in statuses},
        }
        if path.endswith(":predict"):
            operation["requestBody"] = PREDICT_BODY
        paths.setdefault(path, {})[method] = operation
    info = {"title": "model-server queue-proxy", "version": __version__}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": SCHEMAS}}


def _response(path: str, status: int) -> dict[str, Any]:
    if status >= HTTPStatus.BAD_REQUEST:
        return {"description": MEANINGS[status], "content": {"application/json": {"schema": ERROR}}}
    if status == HTTPStatus.ACCEPTED:
        return {"description": MEANINGS[status], "content": {"application/json": {"schema": RESOURCE}}}
    content = CONTENT.get(path, {"application/json": {"schema": {"type": "object"}}})
    return {"description": MEANINGS[status], "content": content}


async def document(_request: Request) -> Response:
    """Return the document as JSON."""
    return json_response(build())


async def style(_request: Request) -> Response:
    """Return the page's style sheet."""
    return Response(STYLE, media_type="text/css")


async def page(_request: Request) -> Response:
    """Return the document as a page."""
    sections = [_section(method, path, *value) for (method, path), value in PATHS.items()]
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>model-server API</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/docs.css">'
        f'<h1>model-server {__version__}</h1><p>As <a href="/openapi.json">OpenAPI</a>.</p>{"".join(sections)}</html>'
    )
    policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return Response(text, media_type="text/html", headers={"Content-Security-Policy": policy})


def _section(method: str, path: str, summary: str, statuses: list[int], parameters: list[dict[str, Any]]) -> str:
    named = [(f"{one['name']} ({one['in']})", one.get("description", "")) for one in parameters]
    named += [(str(status), MEANINGS[status]) for status in statuses]
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>" for name, meaning in named)
    return f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(summary)}</p><dl>{rows}</dl>"
