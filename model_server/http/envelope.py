"""What surrounds every HTTP request: its id, its host, its errors, its access line, its measurement."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

import orjson
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_server import telemetry
from model_server.config import ServiceSettings
from model_server.errors import ModelServerError, Unavailable
from model_server.http.body import SHARE, Buffer, Share, header
from model_server.http.host import AllowedHosts
from model_server.schema import REQUEST_ID_HEADER, ErrorReply

logger = logging.getLogger("model_server.access")

CLIENT_CLOSED_REQUEST = 499
"""Status in log and metrics of a caller who went away, after nginx."""
REPLY_STARTED = "model_server.reply_started"
LOG_FIELDS = "model_server.log_fields"
"""In the scope: a dictionary of what a route adds to the access line."""
UNEXPECTED = "The server failed to answer; its log has the reason under this X-Request-Id."
LONGEST_PATH = 256
QUIET_PATHS = ("/metrics", "/v2/health/live", "/v2/health/ready", "/", "/healthz", "/readyz")


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a reply in KServe's shape for errors."""
    reply: ErrorReply = {"error": message}
    return Response(orjson.dumps(reply), status, headers, "application/json")


class Meter(Protocol):
    """Counts the requests that a service chooses to count."""

    def begin(self, scope: Scope) -> str | None:
        """Return the label of a request that has begun; None: it is not measured."""

    def end(self, label: str, status: int, seconds: float) -> None:
        """Count a request that has ended, with the status it was answered with."""


class RequestEnvelope:
    """ASGI middleware: request id in and out, errors to replies, bytes held, one access line, one measurement."""

    def __init__(self, app: ASGIApp, meter: Meter, settings: ServiceSettings, buffer: Buffer | None = None) -> None:
        """``buffer`` counts what others in this process hold besides."""
        self._app = app
        self._meter = meter
        self._retry_after_seconds = settings.retry_after_seconds
        self._hosts = AllowedHosts(settings.allowed_hosts)
        self._buffer = buffer or Buffer(settings.max_buffered_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        label = self._meter.begin(scope)
        request_id = telemetry.accept_request_id(header(scope, b"x-request-id"))
        token = telemetry.request_id.set(request_id)
        status = CLIENT_CLOSED_REQUEST
        share = scope[SHARE] = Share(self._buffer)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                scope[REPLY_STARTED] = True
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            size = len(message.get("body", b""))
            share.add(size)  # until the reader has taken it
            try:
                await send(message)
            finally:
                share.remove(size)

        try:
            await self._answer(scope, receive, send_with_id)
        finally:
            share.close()
            seconds = time.perf_counter() - begun
            if label:
                self._meter.end(label, status, seconds)
            _log_access(scope, status, seconds)
            telemetry.request_id.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._hosts.check(scope)
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return
        except ModelServerError as error:
            headers = error.headers
            if isinstance(error, Unavailable):
                headers = {"Retry-After": str(self._retry_after_seconds), **headers}
            if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.exception("request failed")
            response = error_response(error.status, str(error), headers)
        except HTTPException as error:
            response = error_response(error.status_code, error.detail, error.headers)
        except Exception:
            logger.exception("request failed")
            response = error_response(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED)
        else:
            return
        # A reply that failed after its begin is left unfinished: the connection closes, and nobody takes it for whole.
        if not scope.get(REPLY_STARTED):
            await response(scope, receive, send)


def _log_access(scope: Scope, status: int, seconds: float) -> None:
    path = scope["path"]
    level = logging.DEBUG if path in QUIET_PATHS or path.endswith("/ready") else logging.INFO
    if logger.isEnabledFor(level):
        client = scope.get("client")
        fields = {
            "status": status,
            "duration_ms": round(seconds * 1000, 2),
            "client": client[0] if client else "",
            **scope.get(LOG_FIELDS, {}),
        }
        # As it was sent: a path that is decoded may hold spaces, and look like further fields.
        sent = scope.get("raw_path") or path.encode()
        logger.log(level, "%s %s", scope["method"], sent[:LONGEST_PATH].decode("latin-1"), extra=fields)
