"""Synchronous requests: to the predictor and back, byte for byte, behind the breaker."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send

from model_server import telemetry
from model_server.config import QueueProxySettings
from model_server.http import body
from model_server.queue_proxy import metrics, prefer
from model_server.queue_proxy.admission import used_by
from model_server.queue_proxy.cache import Reply, ReplyCache
from model_server.queue_proxy.end_to_end import as_text, end_to_end
from model_server.queue_proxy.intake import fingerprint
from model_server.queue_proxy.predictor_reply import images_in
from model_server.queue_proxy.split import Split
from model_server.schema import BINARY_HEADER, INSTANCE_COUNT_HEADER, REQUEST_ID_HEADER, CacheUse
from model_server.store.metering import Usage

FOR_US = frozenset({b"authorization", b"x-request-id", b"prefer"})
"""The predictor learns no token."""
CACHEABLE_BYTES = 1024 * 1024
"""A larger request is computed: keeping and hashing it would cost more than it gains."""
BODILESS = frozenset({"GET", "HEAD"})
"""What these announce as a body is not waited for: it would have no meaning (RFC 9110, section 9.3.1)."""
CACHE_STATUS = b"cache-status"
CACHE_STATUSES: dict[CacheUse | None, bytes] = {"hit": b"hit", "collapsed": b"fwd=miss; collapsed", None: b"fwd=miss"}


class PassThrough:
    """ASGI application in front of the predictor."""

    def __init__(self, settings: QueueProxySettings, upstream: Split, cache: ReplyCache) -> None:
        self._settings = settings
        self._upstream = upstream
        self._cache = cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        model = model_of(scope["path"]) if scope["method"] == "POST" else None
        if scope["method"] in BODILESS:
            await _reply(await self._fetch(scope, None, None), scope, send)
            return
        data = await body.read(scope, receive, self._settings)
        if model is None:
            await _reply(await self._fetch(scope, data, None), scope, send)
            return
        reply, use = await self.obtain(scope, data, model)
        await _reply(reply, scope, send, use)

    async def obtain(self, scope: Scope, data: bytes, model: str) -> tuple[Reply, bytes | None]:
        """Return the reply to a prediction whose body is ``data``, and its ``Cache-Status``, None without a cache."""
        reply, use = await self._obtain(scope, data, model)
        used_by(scope).images += images_in(reply.status, reply.header(INSTANCE_COUNT_HEADER))
        return reply, use

    async def _obtain(self, scope: Scope, data: bytes, model: str) -> tuple[Reply, bytes | None]:
        if not self._settings.cache_seconds or len(data) > CACHEABLE_BYTES:
            return await self._fetch(scope, data, model), None
        if prefer.wants_fresh(scope):
            return await self._fetch(scope, data, model), b"fwd=request"
        key = _key(scope, data, model) + self._upstream.identity()
        reply, use = await self._cache.obtain(
            key, self._upstream.version(model), lambda: self._fetch(scope, data, model)
        )
        return reply, CACHE_STATUSES[use]

    async def _fetch(self, scope: Scope, data: bytes | None, model: str | None) -> Reply:
        """Ask the predictor. The slot is taken when the body is there, so that nobody holds one by sending slowly."""
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += f"?{scope['query_string'].decode('latin-1')}"
        headers = [*as_text(end_to_end(scope["headers"], FOR_US)), (REQUEST_ID_HEADER, telemetry.request_id.get())]
        async with self._upstream.slot(), _timed(used_by(scope)):
            return await self._upstream.send(scope["method"], target, headers, data, model=model)


@asynccontextmanager
async def _timed(used: Usage) -> AsyncIterator[None]:
    """Count the time within as the predictor's."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        used.compute_seconds += time.perf_counter() - begun


async def _reply(reply: Reply, scope: Scope, send: Send, cache_status: bytes | None = None) -> None:
    body.release(scope)  # the reply is there: the request is not needed any more
    headers = [*reply.headers]
    if scope["method"] != "HEAD":
        headers.append((b"content-length", str(len(reply.body)).encode()))
    if cache_status is not None:
        metrics.SYNC_CACHE.labels(cache_status.decode().rpartition(" ")[2].removeprefix("fwd=")).inc()
        headers.append((CACHE_STATUS, b"queue-proxy; " + cache_status))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def model_of(path: str) -> str | None:
    """Return the model that a path predicts with, None for any other path."""
    if path.startswith("/v1/models/") and path.endswith(":predict"):
        return path[len("/v1/models/") : -len(":predict")]
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return path[len("/v2/models/") : -len("/infer")].partition("/")[0]
    return None


def _key(scope: Scope, data: bytes, model: str) -> bytes:
    """Return a hash of everything in a request that decides the reply; of an image as it is, what a queued one has."""
    if _is_plain_image(scope):
        return fingerprint(model, hashlib.sha256(data).digest(), {})
    deciding = (b"content-type", b"accept", b"accept-encoding", b"content-encoding", BINARY_HEADER.lower().encode())
    parts = [scope["raw_path"], scope["query_string"]]
    parts += [body.header(scope, name).encode("latin-1") for name in deciding]
    return hashlib.sha256(b"\0".join([*parts, data])).digest()


def _is_plain_image(scope: Scope) -> bool:
    """Whether nothing but the image decides the reply of a V1 request."""
    accepted = body.header(scope, b"accept")
    return (
        scope["path"].startswith("/v1/")
        and body.header(scope, b"content-type").startswith("image/")
        and not scope["query_string"]
        and not body.header(scope, b"content-encoding")
        and (not accepted or "*/*" in accepted or "application/json" in accepted)
    )
