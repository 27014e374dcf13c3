"""An OpenAPI document from a table of routes, and a page that shows it without a line of script."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_server import __version__
from model_server.http.replies import json_response

Operation = tuple[str, list[int], list[dict[str, Any]]]
"""What it does, the statuses it answers with, its parameters."""
Operations = Mapping[tuple[str, str], Operation]
"""By method, in lower case, and path."""
Content = Mapping[str, Any]
"""Schemas by media type."""

ERROR = {"$ref": "#/components/schemas/Error"}
ERROR_SCHEMA = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code{font-family:ui-monospace,monospace}dt{font-weight:600}h2{margin-top:2rem;font-size:1.1rem}"
)
POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
MEANINGS = {
    200: "Done.",
    201: "Made.",
    202: "Accepted and durable; `Location` says where the result will be.",
    204: "Done; there is nothing to say.",
    400: "The request is malformed.",
    401: "It needs a token or API key, or the one that came does not hold.",
    403: "It is not for this caller.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    409: "It contradicts what there is.",
    410: "It was removed after its retention.",
    413: "The body or an image is too large.",
    415: "The content type is not read.",
    422: "A field breaks a rule, or the idempotency key was used for another request.",
    429: "Too often; `Retry-After` says when to try again.",
    502: "The server behind this one broke off.",
    503: "Not now; `Retry-After` says when to try again.",
    504: "The server behind this one did not answer in time.",
}


def header(name: str, description: str) -> dict[str, Any]:
    """Return an optional header."""
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}


def query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Return an optional parameter of the query."""
    return {"name": name, "in": "query", "schema": schema or {"type": "string"}, "description": description}


def path_parameter(name: str, **schema: Any) -> dict[str, Any]:
    """Return a part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": schema or {"type": "string"}}


@dataclass(frozen=True)
class Api:
    """Everything the document says. ``content``, of successes, is by path, or by method and path where they differ."""

    title: str
    operations: Operations
    bodies: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    content: Mapping[Any, Content] = field(default_factory=dict)
    schemas: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI 3.1 document."""
        paths: dict[str, dict[str, Any]] = {}
        for key, (summary, statuses, parameters) in self.operations.items():
            method, path = key
            operation: dict[str, Any] = {
                "summary": summary,
                "parameters": parameters,
                "responses": {str(status): self._response(key, status) for status in statuses},
            }
            if HTTPStatus.UNAUTHORIZED in statuses:
                operation["security"] = [{"bearer": []}, {}]
            if key in self.bodies:
                operation["requestBody"] = self.bodies[key]
            paths.setdefault(path, {})[method] = operation
        components = {
            "schemas": {"Error": ERROR_SCHEMA, **self.schemas},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        }
        info = {"title": self.title, "version": __version__}
        return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}

    def routes(self, prefix: str = "") -> list[Route]:
        """Return the document, the page and its style sheet as routes below a prefix."""

        async def document(_request: Request) -> Response:
            return json_response(self.document())

        async def page(_request: Request) -> Response:
            return Response(self._page(prefix), media_type="text/html", headers={"Content-Security-Policy": POLICY})

        async def style(_request: Request) -> Response:
            return Response(STYLE, media_type="text/css")

        return [
            Route(f"{prefix}/openapi.json", document, methods=["GET"]),
            Route(f"{prefix}/docs", page, methods=["GET"]),
            Route(f"{prefix}/docs.css", style, methods=["GET"]),
        ]

    def _response(self, key: tuple[str, str], status: int) -> dict[str, Any]:
        reply: dict[str, Any] = {"description": MEANINGS[status]}
        if status >= HTTPStatus.BAD_REQUEST:
            reply["content"] = {"application/json": {"schema": ERROR}}
        elif status != HTTPStatus.NO_CONTENT:
            plain = {"application/json": {"schema": {"type": "object"}}}
            reply["content"] = self.content.get(key) or self.content.get(key[1]) or plain
        return reply

    def _page(self, prefix: str) -> str:
        sections = "".join(_section(method, path, *value) for (method, path), value in self.operations.items())
        title = html.escape(f"{self.title} {__version__}")
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="{prefix}/docs.css">'
            f'<h1>{title}</h1><p>As <a href="{prefix}/openapi.json">OpenAPI</a>.</p>{sections}</html>'
        )


def _section(method: str, path: str, summary: str, statuses: list[int], parameters: list[dict[str, Any]]) -> str:
    named = [(f"{one['name']} ({one['in']})", one.get("description", "")) for one in parameters]
    named += [(str(status), MEANINGS[status]) for status in statuses]
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>" for name, meaning in named)
    return f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(summary)}</p><dl>{rows}</dl>"
