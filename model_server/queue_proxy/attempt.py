"""One attempt at one prediction: the request, and what its reply means."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from http import HTTPStatus
from urllib.parse import quote

from model_server.errors import BadGateway, GatewayTimeout, Unavailable
from model_server.queue_proxy.cache import Reply, ReplyCache
from model_server.queue_proxy.contents import Contents
from model_server.queue_proxy.intake import v1_body
from model_server.queue_proxy.predictor_reply import message_of, predictions_of, version_of
from model_server.queue_proxy.split import Split
from model_server.schema import REQUEST_ID_HEADER
from model_server.store.runs import Claimed, Outcome

TEMPORARY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
"""Of the 4xx, those that say "later" and not "never"."""
AWAY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}


class Away(Exception):
    """Nobody answers for the model; the message says how that showed. ``busy``: something did, to say "not now"."""

    def __init__(self, message: str, *, busy: bool) -> None:
        super().__init__(message)
        self.busy = busy


async def attempt(upstream: Split, cache: ReplyCache, contents: Contents, claimed: Claimed) -> Outcome:
    """Ask the predictor once; an outcome with ``retry_seconds`` is to be tried again. Raises Away.

    What an identical request is asking now is not asked again. What one has found before is not taken: a result would
    live on by being reused. At the deadline the predictor is not waited for any more.
    """
    try:
        async with asyncio.timeout(claimed.seconds_left), AsyncExitStack() as stack:
            try:
                content = await stack.enter_async_context(contents.of(claimed))
            except Unavailable as error:  # the store's word, not the predictor's
                return _failed(claimed, str(error))
            if claimed.work is None:
                return _outcome(claimed, await _ask(upstream, claimed, content))
            reply, _ = await cache.join(claimed.work, lambda: _ask(upstream, claimed, content))
            return _outcome(claimed, reply)
    except TimeoutError:
        return _failed(claimed, "The predictor was still at work.")
    except GatewayTimeout as error:
        return _failed(claimed, str(error))
    except (Unavailable, BadGateway) as error:
        raise Away(str(error), busy=False) from None


async def _ask(upstream: Split, claimed: Claimed, content: bytes) -> Reply:
    media_type = claimed.media_type
    if claimed.image_sha256 is not None:
        content, media_type = v1_body(content, media_type, claimed.parameters)
    headers = {"Content-Type": media_type, REQUEST_ID_HEADER: claimed.request_id or claimed.id.hex}
    if claimed.traceparent:
        headers["traceparent"] = claimed.traceparent
    target = f"/v1/models/{quote(claimed.model, safe='')}:predict"
    return await upstream.send("POST", target, headers, content, model=claimed.model)


def _outcome(claimed: Claimed, reply: Reply) -> Outcome:
    status = reply.status
    if status == HTTPStatus.OK:
        predictions = predictions_of(reply.body)
        if predictions is None:
            return _failed(claimed, "The predictor's answer holds no predictions.")
        return Outcome(claimed, predictions=predictions, model_version=version_of(reply.version))
    message = message_of(reply.body) or f"The predictor answered {status}."
    if status in AWAY:
        raise Away(message, busy=True)
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in TEMPORARY:
        return Outcome(claimed, error={"code": "rejected", "message": message, "status": status})
    return _failed(claimed, message)


def _failed(claimed: Claimed, message: str) -> Outcome:
    return Outcome(claimed, error={"code": "attempt_failed", "message": message}, retry_seconds=0)
