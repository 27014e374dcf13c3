"""The OpenAPI document of every route of the feedback service."""

from __future__ import annotations

from typing import Any

from model_server.feedback import openapi_feedback as said
from model_server.http.openapi import Api, Operations, path_parameter, query

USER = {"$ref": "#/components/schemas/User"}
KEY = {"$ref": "#/components/schemas/ApiKey"}
ID = path_parameter("id")
KEY_ID = path_parameter("key", type="string", format="uuid")
PAGE = [query("limit", "1 to 100, 20 without.", type="integer", minimum=1, maximum=100), query("cursor", "Next page.")]

ACCOUNTS: Operations = {
    ("get", "/login"): ("The mode, and the rules for passwords.", [200], []),
    ("post", "/login"): (
        "Log in: OAuth 2's password form; `username` is the e-mail.",
        [200, 400, 401, 408, 413, 415, 422, 429, 503],
        [],
    ),
    ("post", "/user/"): ("Make an account.", [201, 400, 401, 403, 408, 409, 413, 422, 429, 503], []),
    ("get", "/user/"): ("Oneself; to an administrator all users, newest first.", [200, 400, 401, 503], PAGE),
    ("get", "/user/{id}"): ("A user: `me`, or to an administrator anybody.", [200, 401, 403, 404, 503], [ID]),
    ("delete", "/user/{id}"): ("Remove a user: oneself, or an administrator.", [204, 401, 403, 404, 503], [ID]),
    ("post", "/user/{id}/keys"): (
        "Make an API key for oneself; it is shown this once.",
        [201, 400, 401, 403, 404, 408, 409, 413, 422, 503],
        [ID],
    ),
    ("get", "/user/{id}/keys"): ("A user's API keys, newest first.", [200, 401, 403, 404, 503], [ID]),
    ("delete", "/user/{id}/keys/{key}"): ("Revoke an API key.", [204, 401, 403, 404, 503], [ID, KEY_ID]),
}
OPERATIONS: Operations = {
    ("get", "/healthz"): ("The process is alive.", [200], []),
    ("get", "/readyz"): ("The process and its database can work.", [200, 503], []),
    ("get", "/metrics"): ("Metrics in Prometheus' text format.", [200], []),
    ("get", "/feedback/openapi.json"): ("This document.", [200], []),
    ("get", "/feedback/docs"): ("This document as a page.", [200], []),
}
_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


SCHEMAS = {
    "User": _object(
        ["id", "name", "email"], id=_TEXT, name=_TEXT, email=_TEXT, is_admin={"type": "boolean"}, created_at=_TIME
    ),
    "ApiKey": _object(
        ["id", "name", "hint"],
        id=_TEXT,
        name=_TEXT,
        hint=_TEXT,
        created_at=_TIME,
        last_used_at={"type": ["string", "null"], "format": "date-time"},
    ),
}
NEW_USER = _object(["name", "email", "password"], name=_TEXT, email=_TEXT | {"format": "email"}, password=_TEXT)
NEW_KEY = _object(["name"], name=_TEXT)
LOGIN = _object(["username", "password"], username=_TEXT, password=_TEXT, grant_type={"const": "password"})
TOKEN = _object(
    ["access_token", "token_type"], access_token=_TEXT, token_type={"const": "bearer"}, expires_in={"type": "integer"}
)
BODIES = {
    ("post", "/login"): {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": LOGIN}}},
    ("post", "/user/"): {"required": True, "content": _json(NEW_USER | {"additionalProperties": False})},
    ("post", "/user/{id}/keys"): {"required": True, "content": _json(NEW_KEY | {"additionalProperties": False})},
}
CONTENT: dict[str | tuple[str, str], Any] = {
    ("post", "/login"): _json(TOKEN),
    ("post", "/user/"): _json(USER),
    ("get", "/user/"): _json(_object(["users"], users={"type": "array", "items": USER})),
    ("get", "/user/{id}"): _json(USER),
    ("post", "/user/{id}/keys"): _json({"allOf": [KEY, _object(["key"], key=_TEXT)]}),
    ("get", "/user/{id}/keys"): _json(_object(["keys"], keys={"type": "array", "items": KEY})),
    "/metrics": {"text/plain": {"schema": _TEXT}},
    "/feedback/docs": {"text/html": {"schema": _TEXT}},
}
API = Api(
    "model-server feedback",
    {**ACCOUNTS, **said.OPERATIONS, **OPERATIONS},
    bodies={**BODIES, **said.BODIES},
    content={**CONTENT, **said.CONTENT},
    schemas={**SCHEMAS, **said.SCHEMAS},
)
