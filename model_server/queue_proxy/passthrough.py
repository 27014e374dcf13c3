"""Synchronous requests: to the predictor and back, byte for byte, behind the breaker."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aiohttp import ClientResponse
from starlette.types import Message, Receive, Scope, Send

from model_server import telemetry
from model_server.config import QueueProxySettings
from model_server.errors import BadGateway
from model_server.http import body
from model_server.http.numbers import bounded_integer
from model_server.queue_proxy import metrics, prefer
from model_server.queue_proxy.admission import used_by
from model_server.queue_proxy.cache import Reply, ReplyCache
from model_server.queue_proxy.intake import fingerprint
from model_server.queue_proxy.predictor_reply import images_in
from model_server.queue_proxy.split import Split
from model_server.queue_proxy.upload import Upload
from model_server.queue_proxy.upstream import HOP_BY_HOP, Body, end_to_end_headers, read_reply
from model_server.schema import BINARY_HEADER, INSTANCE_COUNT_HEADER, REQUEST_ID_HEADER, CacheUse
from model_server.store.metering import Usage

NOT_SENT = HOP_BY_HOP | {b"authorization", b"x-request-id", b"expect", b"prefer"}
"""What is meant for us: the predictor learns no token."""
CACHEABLE_BYTES = 1024 * 1024
"""A larger request streams through and is computed: keeping and hashing it would cost more than it gains."""
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
        if model and self._settings.cache_seconds and _is_small(scope):
            await self._predict(scope, receive, send, model)
            return
        body.check_announced(scope, self._settings.max_body_bytes)
        upload = Upload(receive, self._settings)
        try:
            async with (
                self._upstream.slot(),
                _timed(used_by(scope)) as used,
                self._send(scope, upload if has_body(scope) else None, model) as response,
            ):
                if model:
                    used.images += images_in(response.status, response.headers.get(INSTANCE_COUNT_HEADER))
                await relay(response, send)
        except BadGateway:
            raise upload.error or BadGateway("The predictor broke off before its answer was complete.") from None

    async def _predict(self, scope: Scope, receive: Receive, send: Send, model: str) -> None:
        """Answer a prediction from the cache, from an identical one in flight, or from the predictor."""
        data = await body.read(scope, receive, self._settings)
        await _reply(*await self.obtain(scope, data, model), send)

    async def obtain(self, scope: Scope, data: bytes, model: str) -> tuple[Reply, bytes]:
        """Return the reply to a prediction whose body is ``data``, and its ``Cache-Status``."""
        reply, use = await self._obtain(scope, data, model)
        used_by(scope).images += images_in(reply.status, reply.header(INSTANCE_COUNT_HEADER))
        return reply, use

    async def _obtain(self, scope: Scope, data: bytes, model: str) -> tuple[Reply, bytes]:
        if prefer.wants_fresh(scope) or not self._settings.cache_seconds:
            return await self._fetch(scope, data, model), b"fwd=request"
        key = _key(scope, data, model) + self._upstream.identity()
        reply, use = await self._cache.obtain(
            key, self._upstream.version(model), lambda: self._fetch(scope, data, model)
        )
        return reply, CACHE_STATUSES[use]

    async def _fetch(self, scope: Scope, data: bytes, model: str) -> Reply:
        async with self._upstream.slot(), _timed(used_by(scope)), self._send(scope, data, model) as response:
            return await read_reply(response)

    def _send(self, scope: Scope, content: Body, model: str | None) -> AbstractAsyncContextManager[ClientResponse]:
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += f"?{scope['query_string'].decode('latin-1')}"
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in NOT_SENT
        ]
        headers.append((REQUEST_ID_HEADER, telemetry.request_id.get()))
        return self._upstream.send(scope["method"], target, headers, content, model=model)


@asynccontextmanager
async def _timed(used: Usage) -> AsyncIterator[Usage]:
    """Count the time within as the predictor's."""
    begun = time.perf_counter()
    try:
        yield used
    finally:
        used.compute_seconds += time.perf_counter() - begun


async def relay(response: ClientResponse, send: Send) -> None:
    """Pass a reply on as it arrives."""
    start: Message = {"type": "http.response.start", "status": response.status, "headers": end_to_end_headers(response)}
    await send(start)
    async for part in response.content.iter_any():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _reply(reply: Reply, cache_status: bytes, send: Send) -> None:
    metrics.SYNC_CACHE.labels(cache_status.decode().rpartition(" ")[2].removeprefix("fwd=")).inc()
    headers = [*reply.headers, (CACHE_STATUS, b"queue-proxy; " + cache_status)]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def model_of(path: str) -> str | None:
    """Return the model that a path predicts with, None for any other path."""
    if path.startswith("/v1/models/") and path.endswith(":predict"):
        return path[len("/v1/models/") : -len(":predict")]
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return path[len("/v2/models/") : -len("/infer")].partition("/")[0]
    return None


def has_body(scope: Scope) -> bool:
    """Whether a request announces a body."""
    return body.header(scope, b"content-length") not in {"", "0"} or bool(body.header(scope, b"transfer-encoding"))


def _is_small(scope: Scope) -> bool:
    return bounded_integer(body.header(scope, b"content-length"), 0, CACHEABLE_BYTES) is not None


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
