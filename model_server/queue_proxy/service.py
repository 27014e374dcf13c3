"""Predictions for whatever route asks: made at once, or recorded and made later."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

from starlette.types import Scope

from model_server import errors
from model_server.documents import v1_reply
from model_server.documents.v1_reply import Prediction
from model_server.errors import BadGateway, ModelServerError, Unavailable
from model_server.queue_proxy.admission import caller_of
from model_server.queue_proxy.cache import Reply
from model_server.queue_proxy.intake import Work, v1_body
from model_server.queue_proxy.model_list import served_models
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.passthrough import PassThrough
from model_server.queue_proxy.predictor_reply import check_status, message_of, predictions_of
from model_server.queue_proxy.submit import SubmitRoute, known_name
from model_server.store import reads
from model_server.store.models import Record

PASSED_ON = (b"cache-control", b"traceparent")
"""Of a request in another shape, what means the same to us."""
REFUSALS: Mapping[int, type[ModelServerError]] = {
    kind.status: kind
    for kind in (
        errors.InvalidInput,
        errors.NotFound,
        errors.RequestTimeout,
        errors.PayloadTooLarge,
        errors.UnsupportedMediaType,
        errors.Unavailable,
    )
}
"""How a predictor's error is told to the caller; any other is a bad gateway."""


class PredictionService:
    """What the routes in other shapes than ours do their work with."""

    def __init__(self, parts: Parts, through: PassThrough, submit: SubmitRoute) -> None:
        self.settings = parts.settings
        self._database = parts.database
        self._upstream = parts.upstream
        self._through = through
        self._submit = submit
        self._model: str | None = parts.settings.default_model

    async def model(self) -> str:
        """Return the model of routes that name none: the set one, the predictor's first, or the last one asked for.

        Raises Unavailable where there is none of these.
        """
        if self._model is None:
            self._model = await self._predictors_first()
        model = self._model or await reads.last_model(self._database)
        if model is None:
            raise Unavailable("The predictor has not told its model's name yet. Try again later.")
        return model

    async def _predictors_first(self) -> str | None:
        try:
            return next(iter(await served_models(self._upstream)), None)
        except ModelServerError:
            return None  # it sleeps or starts; the queue takes work for it all the same

    async def classify(self, scope: Scope, model: str, work: Work) -> Prediction:
        """Return the prediction of one image, made now; raises what the predictor refuses, or that it is away."""
        content, media_type = v1_body(work.image or b"", work.media_type, work.parameters)
        path = f"/v1/models/{quote(known_name(model), safe='')}:predict"
        kept = [(name, value) for name, value in scope["headers"] if name in PASSED_ON]
        headers = [*kept, (b"content-type", media_type.encode())]
        request = {**scope, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        reply, _ = await self._through.obtain(request, content, model)
        return _only_result(reply)

    async def record(self, scope: Scope, model: str, work: Work) -> Record:
        """Return the row of a prediction that is recorded, to be made later."""

        async def given() -> Work:
            return work

        _, row = await self._submit.record(scope, model, given, caller_of(scope))
        return row


def _only_result(reply: Reply) -> Prediction:
    if check_status(reply.status) != HTTPStatus.OK:
        kind = REFUSALS.get(reply.status, BadGateway)
        raise kind(message_of(reply.body) or f"The predictor answered {reply.status}.")
    predictions = v1_reply.predictions(predictions_of(reply.body))
    if predictions is None or len(predictions) != 1:
        raise BadGateway("The predictor's answer does not hold one prediction of one image.")
    return predictions[0]
