"""What the OpenAPI document says of the drop-in routes, an example of each request and reply with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_server.http.openapi import Content, Operations, header, path_parameter, query

FRESH = header("Cache-Control", "`no-cache`: compute, whatever identical work has found.")
BINARY = {"type": "string", "format": "binary"}
TEXT = {"type": "string"}
NUMBER = {"type": "number"}
NOW = [200, 400, 401, 404, 408, 413, 415, 429, 502, 503, 504]
"""Statuses of a prediction that is made at once."""

OPERATIONS: Operations = {
    ("post", "/inference/image"): (
        "Queue an image; whatever the content type says, the body is JSON with the image in base64.",
        [200, 400, 401, 404, 408, 413, 415, 422, 429, 503],
        [header("Idempotency-Key", "The same key and body give the same identifier.")],
    ),
    ("get", "/predictions/{uuid}"): (
        "The label of a queued image; 202 before it is there.",
        [200, 202, 400, 401, 404, 410, 502, 503, 504],
        [path_parameter("uuid", type="string", format="uuid")],
    ),
    ("post", "/predict"): ("Classify an uploaded image.", NOW, [FRESH]),
    ("post", "/model/predict"): (
        "Classify an uploaded image for a user, and name it after its content.",
        NOW,
        [FRESH],
    ),
    ("post", "/inference"): (
        "Run a command, of which there is one, predict, on an encoded image or on raw pixels.",
        NOW,
        [FRESH],
    ),
    ("post", "/models/{model}"): (
        "Classify an image as the clients of Hugging Face's Inference API ask for it.",
        NOW,
        [path_parameter("model"), FRESH],
    ),
    ("get", "/api/v1/health"): ("The process is alive.", [200], []),
    ("get", "/api/v1/statistics"): (
        "How often a route was called, all replicas together.",
        [200, 400, 401, 404, 503],
        [
            {**query("api", "The route: its path, or the last part of it."), "required": True},
            query("window", "The current one of these; minute without.", enum=["second", "minute", "hour", "day"]),
        ],
    ),
}


def _json(properties: Mapping[str, Any], example: Any, required: list[str] | None = None) -> Content:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required or list(properties)}
    return {"application/json": {"schema": schema, "example": example}}


def _form(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


SCORED = {"type": "object", "properties": {"label": TEXT, "score": NUMBER}, "required": ["label", "score"]}
METADATA = {
    "type": "string",
    "description": "JSON: request_id; for raw pixels also shape, height x width, and dtype: uint8, float32 or float64.",
    "example": '{"request_id": "7", "shape": "256x256", "dtype": "float32"}',
}
BODIES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("post", "/inference/image"): {
        "required": True,
        "content": {
            media_type: _json({"name": TEXT, "data": TEXT}, {"name": "photo.jpg", "data": "/9j/4AAQ…"}, ["data"])[
                "application/json"
            ]
            for media_type in ("application/json", "text/plain")
        },
    },
    ("post", "/predict"): _form({"file": BINARY}),
    ("post", "/model/predict"): _form({"file": BINARY}),
    ("post", "/inference"): _form({"command": {"enum": ["predict"]}, "metadata": METADATA, "image": BINARY}),
    ("post", "/models/{model}"): {
        "required": True,
        "content": {
            "image/*": {"schema": BINARY},
            **_json(
                {"inputs": TEXT, "parameters": {"type": "object", "properties": {"top_k": {"type": "integer"}}}},
                {"inputs": "/9j/4AAQ…", "parameters": {"top_k": 2}},
                ["inputs"],
            ),
        },
    },
}
SUCCESS = {"success": {"type": "boolean"}, "prediction": TEXT, "score": NUMBER}
SHIP = {"success": True, "prediction": "ship", "score": 0.5516}
CONTENT: Mapping[str | tuple[str, str], Content] = {
    "/inference/image": _json(
        {"uuid": {"type": "string", "format": "uuid"}}, {"uuid": "01890a5d-ac96-774b-bcce-b302099a8057"}
    ),
    "/predictions/{uuid}": _json(
        {"prediction": TEXT, "status": {"enum": ["queued", "running"]}}, {"prediction": "ship"}, []
    ),
    "/predict": _json(SUCCESS, SHIP),
    "/model/predict": _json({**SUCCESS, "image_file_name": TEXT}, {**SHIP, "image_file_name": "9f86d0…0a08.jpg"}),
    "/inference": _json(
        {
            "class": TEXT,
            "confidence_level": NUMBER,
            "prediction": {"type": "array", "items": SCORED},
            "request_id": TEXT,
        },
        {
            "class": "ship",
            "confidence_level": 0.5516,
            "prediction": [{"label": "ship", "index": 8, "score": 0.5516}],
            "request_id": "7",
        },
    ),
    "/api/v1/health": _json({"message": TEXT}, {"message": "Application is up and running"}),
    "/api/v1/statistics": {
        "application/json": {
            "schema": {"type": "object", "properties": {"api": TEXT}, "required": ["api"]},
            "example": {"api": "predict", "number of calls in current minute": 42},
        }
    },
    "/models/{model}": {
        "application/json": {
            "schema": {"type": "array", "items": SCORED},
            "example": [{"label": "ship", "score": 0.5516}, {"label": "automobile", "score": 0.1826}],
        }
    },
}
