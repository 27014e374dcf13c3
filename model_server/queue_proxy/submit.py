"""``Prefer: respond-async``: check, record, answer 202, or the result if it comes within the preferred wait."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from model_server import telemetry
from model_server.accounts.caller import Caller
from model_server.config import ServiceSettings
from model_server.errors import DatabaseUnavailable, ModelServerError, NotFound, shown
from model_server.http import body
from model_server.http.envelope import LOG_FIELDS
from model_server.http.replies import json_response
from model_server.queue_proxy import intake, metrics, prefer
from model_server.queue_proxy.admission import used_by
from model_server.queue_proxy.callback_address import CallbackAddresses
from model_server.queue_proxy.intake import Work
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.predictions import PredictionRoutes
from model_server.queue_proxy.predictor_reply import predictions_of, version_of
from model_server.queue_proxy.prefer import Preferences
from model_server.queue_proxy.resources import is_finished, resource
from model_server.queue_proxy.split import place
from model_server.schema import PredictionResource
from model_server.store import submissions
from model_server.store.gather import Gatherer
from model_server.store.models import Record
from model_server.store.submissions import Accepted, Submission

CALLBACK_HEADER = "Callback-Url"
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CACHE_NAME = "queue-proxy"

ReadWork = Callable[[Scope, bytes, ServiceSettings], Awaitable[Work]]
"""Checks a body of one protocol."""


class SubmitRoute:
    """Accepts predictions to be made later."""

    def __init__(self, parts: Parts, predictions: PredictionRoutes) -> None:
        settings = parts.settings
        self._settings = settings
        self._database = parts.database
        self._queue = parts.queue
        self._images = parts.images
        self._upstream = parts.upstream
        self._cache = parts.cache
        self._resources = parts.resources
        self._predictions = predictions
        self._addresses = CallbackAddresses(settings)
        self._writer: Gatherer[Submission, Accepted | ModelServerError] = Gatherer(self._write)

    async def submit(self, request: Request, wishes: Preferences, read_work: ReadWork, caller: Caller) -> Response:
        """Answer 202 with the prediction, or 200 where it has ended within the preferred wait."""

        async def read() -> Work:
            data = await body.read(request.scope, request.receive, self._settings)
            return await read_work(request.scope, data, self._settings)

        cache_status, row = await self.record(request.scope, request.path_params["model"], read, caller)
        row, shown = await self._shown(row, wishes.wait_seconds or 0)
        path = f"/v1/predictions/{row.id}"
        headers = {"Preference-Applied": wishes.applied, "Cache-Status": cache_status}
        if is_finished(row) and wishes.wait_seconds is not None:
            headers["Content-Location"] = path
            return json_response(shown, HTTPStatus.OK, headers)
        headers |= {"Location": path, "Retry-After": str(self._settings.retry_after_seconds)}
        return json_response(shown, HTTPStatus.ACCEPTED, headers)

    async def _shown(self, row: Record, wait_seconds: float) -> tuple[Record, PredictionResource]:
        """Return the row, after the wait, and its resource.

        Where the database is away by now, they are what was recorded: a refusal would have the caller send again what
        is going to run.
        """
        try:
            if wait_seconds:
                row = await self._predictions.wait(row, wait_seconds)
            return row, await self._resources.render_new(row)
        except DatabaseUnavailable:
            return row, resource(row)

    async def record(
        self, scope: Scope, model: str, read: Callable[[], Awaitable[Work]], caller: Caller
    ) -> tuple[str, Record]:
        """Record a prediction to be made, its headers checked before ``read`` reads the body, which is then let go of.

        Return ``Cache-Status`` and the prediction's row.
        """
        submission = await self._kept_outside(await self._submission(scope, model, read, caller))
        writing = asyncio.ensure_future(self._write_and_count(scope, submission))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:  # whoever leaves now has submitted it all the same
            await asyncio.wait([writing])
            raise

    async def _write_and_count(self, scope: Scope, submission: Submission) -> tuple[str, Record]:
        accepted = await self._writer.put(submission)
        body.release(scope)
        if isinstance(accepted, ModelServerError):
            raise accepted
        metrics.SUBMITTED.labels(accepted.cache or ("computed" if accepted.created else "repeated")).inc()
        scope[LOG_FIELDS] = {"prediction_id": str(accepted.row.id)}
        used_by(scope).images += submission.images if accepted.created else 0
        return _cache_status(submission, accepted), accepted.row

    async def _kept_outside(self, submission: Submission) -> Submission:
        """Return it without its image where images are kept elsewhere, and keep it there."""
        if submission.image is None or submission.image_sha256 is None or not self._images.are_outside:
            return submission
        await self._images.keep(submission.image_sha256, submission.media_type, submission.image)
        return replace(submission, image=None)

    async def _write(self, items: list[Submission]) -> Sequence[Accepted | ModelServerError]:
        return await submissions.submit(self._database, self._queue, items)

    async def _submission(
        self, scope: Scope, model: str, read: Callable[[], Awaitable[Work]], caller: Caller
    ) -> Submission:
        settings = self._settings
        model = known_name(model)
        callback_url = self._addresses.check(body.header(scope, CALLBACK_HEADER.lower().encode()))
        key = prefer.idempotency_key(scope)
        deadline = prefer.deadline(scope, settings.deadline_seconds, settings.max_deadline_seconds)
        work = await read()
        image_sha256 = work.image_sha256
        content_sha256 = image_sha256 or hashlib.sha256(work.document or b"").digest()
        identity = intake.fingerprint(model, content_sha256, work.parameters)
        work_identity = identity + self._upstream.identity()
        version = version_of(self._upstream.version(model))
        reuse = settings.cache_seconds > 0 and not prefer.wants_fresh(scope)
        return Submission(
            model=model,
            user_id=caller.user_id,
            images=work.count,
            image=work.image,
            image_sha256=image_sha256,
            media_type=work.media_type,
            document=work.document,
            parameters=work.parameters,
            priority=prefer.urgency(scope),
            deadline_seconds=deadline,
            work=work_identity if reuse else None,
            version=version,
            place=place.get(),
            known=self._known(work_identity, version) if reuse else None,
            reuse_seconds=settings.cache_seconds,
            idempotency_key=key,
            fingerprint=_request_fingerprint(identity, callback_url) if key else None,
            callback_url=callback_url,
            forwarded=settings.result_sink is not None,
            request_id=telemetry.request_id.get(),
            traceparent=prefer.traceparent(scope),
        )

    def _known(self, identity: bytes, version: str | None) -> list[Any] | None:
        """Return what a request that was answered by this process a short while ago has found."""
        kept = self._cache.get(identity, version)
        return predictions_of(kept.body) if kept else None


def known_name(model: str) -> str:
    """Return a name that a model may have; raises NotFound for any other."""
    if not MODEL_NAME.fullmatch(model):
        raise NotFound(f"There is no model {shown(model)}.")
    return model


def _request_fingerprint(identity: bytes, callback_url: str | None) -> bytes:
    return hashlib.sha256(identity + (callback_url or "").encode()).digest()


def _cache_status(submission: Submission, accepted: Accepted) -> str:
    """Return ``Cache-Status`` (RFC 9211)."""
    if accepted.cache == "hit":
        return f"{CACHE_NAME}; hit"
    if accepted.cache == "collapsed":
        return f"{CACHE_NAME}; fwd=miss; collapsed"
    return f"{CACHE_NAME}; fwd=miss" if submission.work else f"{CACHE_NAME}; fwd=request"
