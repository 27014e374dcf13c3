"""What the OpenAPI document says of feedback, report and export."""

from __future__ import annotations

from typing import Any

from model_server.feedback.judgement import LONGEST_COMMENT, LONGEST_NAME
from model_server.http.openapi import Operations, path_parameter, query

ENTRY = {"$ref": "#/components/schemas/Feedback"}
_ID = path_parameter("id", type="string", format="uuid")
_DAY = {"type": "string", "format": "date"}
_SCOPE = [
    query("model", "Only this model."),
    query("version", "Only this version."),
    query("from", "First day of the predictions, in UTC.", **_DAY),
    query("to", "Last day of the predictions, in UTC.", **_DAY),
]
_PAGE = [
    query("limit", "1 to 100, 20 without.", type="integer", minimum=1, maximum=100),
    query("cursor", "`next_cursor` of the page before."),
    query("all", "Everybody's, to administrators.", type="boolean"),
]
_EXPORT = [
    query("format", "`tar`, or `label-studio`: tasks as JSON.", enum=["tar", "label-studio"]),
    query("images", "Where Label Studio finds the tar's content; its local files without."),
]

OPERATIONS: Operations = {
    ("post", "/feedback/"): (
        "Judge a prediction; another word of the same author on it replaces the first.",
        [201, 400, 401, 404, 408, 409, 410, 413, 415, 422, 503],
        [],
    ),
    ("get", "/feedback/"): ("One's own feedback, newest first.", [200, 400, 401, 403, 503], _PAGE),
    ("delete", "/feedback/{id}"): ("Take feedback back.", [204, 401, 403, 404, 503], [_ID]),
    ("get", "/feedback/{id}/image"): ("The picture that feedback is about.", [200, 401, 404, 503], [_ID]),
    ("get", "/feedback/labels"): (
        "The classes of a model version, of the one last seen where none is named.",
        [200, 400, 401, 404, 503],
        _SCOPE[:2],
    ),
    ("get", "/feedback/report"): (
        "What users said of each version; every proportion has its 95 % interval by Wilson.",
        [200, 400, 401, 403, 503],
        _SCOPE,
    ),
    ("get", "/feedback/export"): (
        "The labelled pictures as a tar to train on, or all that were judged as tasks for Label Studio.",
        [200, 400, 401, 403, 503],
        [*_SCOPE, *_EXPORT],
    ),
    ("post", "/feedback/import"): (
        "Take the annotations of Label Studio's JSON export as feedback.",
        [200, 400, 401, 403, 408, 410, 413, 422, 503],
        [],
    ),
}
_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_NAME = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_SCORE = {"type": "number", "minimum": 0, "maximum": 1}
_MAYBE = {"type": ["string", "null"]}
_NEW = {
    "type": "object",
    "description": "`prediction_id` fills in what is left out; without it the first four are required.",
    "additionalProperties": False,
    "properties": {
        "score": _SCORE,
        "predicted_class": _NAME,
        "image_file_name": _TEXT | {"maxLength": LONGEST_NAME},
        "feedback": _TEXT | {"maxLength": LONGEST_COMMENT},
        "prediction_id": _TEXT | {"format": "uuid"},
        "correct_class": _NAME,
        "correct": {"type": "boolean"},
        "model": _NAME,
        "model_version": _TEXT | {"maxLength": LONGEST_NAME},
    },
}
SCHEMAS = {
    "Feedback": {
        "type": "object",
        "required": ["id", "model", "predicted_class", "score"],
        "properties": {
            "id": _TEXT,
            "prediction_id": _MAYBE,
            "user_id": _MAYBE,
            "model": _TEXT,
            "model_version": _MAYBE,
            "predicted_class": _TEXT,
            "score": _SCORE,
            "correct": {"type": ["boolean", "null"]},
            "correct_class": _MAYBE,
            "feedback": _TEXT,
            "image_file_name": _TEXT,
            "predicted_at": _TIME,
            "created_at": _TIME,
            "updated_at": _TIME,
            "links": {"type": "object", "additionalProperties": _TEXT},
        },
    },
}
BODIES = {
    ("post", "/feedback/"): {"required": True, "content": {"application/json": {"schema": _NEW}}},
    ("post", "/feedback/import"): {
        "required": True,
        "content": {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}},
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_LIST: dict[str, Any] = {
    "type": "object",
    "required": ["feedback", "next_cursor"],
    "properties": {"feedback": {"type": "array", "items": ENTRY}, "next_cursor": _MAYBE},
}
CONTENT: dict[str | tuple[str, str], Any] = {
    ("post", "/feedback/"): {"application/json": {"schema": ENTRY}},
    ("get", "/feedback/"): {"application/json": {"schema": _LIST}},
    ("get", "/feedback/{id}/image"): {"image/*": _BINARY},
    ("get", "/feedback/export"): {
        "application/x-tar": _BINARY,
        "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
    },
}
