"""gRPC: the SDK's servicer on our address, with errors as statuses and one access line a call."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from kserve.errors import InferenceError, ModelNotFound, ModelNotReady
from kserve.errors import InvalidInput as SDKInvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from model_server import telemetry
from model_server.config import PredictorSettings
from model_server.errors import Forbidden, InvalidInput, ModelServerError, Overloaded, SettingsError, shown
from model_server.http.body import Buffer, Share
from model_server.predictor import metrics
from model_server.predictor.service import PredictorService
from model_server.schema import REQUEST_ID_HEADER

logger = logging.getLogger("model_server.access")

INFER = "ModelInfer"
PROTOCOL = "grpc"
CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


class ClosedRepository(ModelRepositoryExtension):  # type: ignore[misc]
    """Loading and unloading by request, turned off."""

    async def load(self, model_name: str) -> None:
        """Refuse."""
        raise Forbidden(f"Loading models by request is turned off; {shown(model_name)} was not touched.")

    async def unload(self, model_name: str) -> None:
        """Refuse."""
        raise Forbidden(f"Unloading models by request is turned off; {shown(model_name)} was not touched.")


class VersionedServicer(InferenceServicer):  # type: ignore[misc]
    """The SDK's servicer, which knows nothing of versions."""

    def __init__(self, data_plane: DataPlane, service: PredictorService) -> None:
        super().__init__(data_plane, ClosedRepository(data_plane.model_registry))
        self._service = service

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Whether the model is ready; NOT_FOUND for a version that is not served."""
        if request.version:
            self._service.require(request.name, request.version)
        return await super().ModelReady(request, context)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return metadata with version and platform; NOT_FOUND for a version that is not served."""
        model = self._service.require(request.name, request.version or None)
        reply = await super().ModelMetadata(request, context)
        reply.versions.append(self._service.version)
        reply.platform = model.runtime
        return reply


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return the gRPC status of an error and the sentence for the caller."""
    if isinstance(error, Overloaded):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    if isinstance(error, ModelServerError):
        return CODES.get(error.status, grpc.StatusCode.INTERNAL), str(error)
    if isinstance(error, ModelNotFound):
        return grpc.StatusCode.NOT_FOUND, "There is no such model."
    if isinstance(error, ModelNotReady):
        return grpc.StatusCode.UNAVAILABLE, str(error)
    if isinstance(error, InferenceError | SDKInvalidInput):
        # The SDK repeats names of the request in full.
        return grpc.StatusCode.INVALID_ARGUMENT, f"The request is not valid: {shown(str(error))}."
    return grpc.StatusCode.INTERNAL, "The server failed to answer; its log has the reason."


class CallEnvelope(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """What surrounds every call: its id, its errors, the bytes it holds, its access line, its measurements."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of one call."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = details.method.rpartition("/")[2]

        async def answer_within_envelope(request: bytes, context: grpc.aio.ServicerContext) -> Any:
            return await _answer(handler, request, context, method, Share(self._buffer))

        # Without a deserializer the message is parsed within the envelope: gRPC itself takes one that is malformed for
        # a fault of ours, and logs a stack.
        return grpc.unary_unary_rpc_method_handler(answer_within_envelope, None, handler.response_serializer)


async def _answer(handler: grpc.RpcMethodHandler, request: bytes, context: Any, method: str, share: Share) -> Any:
    begun = time.perf_counter()
    given = dict(context.invocation_metadata() or ()).get(REQUEST_ID_HEADER.lower())
    telemetry.request_id.set(telemetry.accept_request_id(given if isinstance(given, str) else None))
    code = grpc.StatusCode.CANCELLED
    if method == INFER:
        metrics.IN_FLIGHT.labels(PROTOCOL).inc()
    try:
        share.take(len(request))
        reply = await handler.unary_unary(_parsed(handler, request, method), context)
        code = grpc.StatusCode.OK
        return reply
    except Exception as error:
        code, message = status_of(error)
        if code is grpc.StatusCode.INTERNAL:
            logger.exception("call failed")
        await context.abort(code, message)
    finally:
        share.close()
        _record(method, code, time.perf_counter() - begun)


def _parsed(handler: grpc.RpcMethodHandler, request: bytes, method: str) -> Message:
    try:
        message: Message = handler.request_deserializer(request)
    except DecodeError:
        raise InvalidInput(f"The message is not what {method} takes, as protobuf.") from None
    return message


def _record(method: str, code: grpc.StatusCode, seconds: float) -> None:
    if method == INFER:
        metrics.IN_FLIGHT.labels(PROTOCOL).dec()
        metrics.REQUESTS.labels(PROTOCOL, code.name).inc()
        if code is not grpc.StatusCode.OK:
            metrics.ERRORS.labels(PROTOCOL, code.name).inc()
        metrics.REQUEST_SECONDS.labels(PROTOCOL).observe(seconds)
    level = logging.INFO if method == INFER else logging.DEBUG
    logger.log(level, "gRPC %s", method, extra={"status": code.name, "duration_ms": round(seconds * 1000, 2)})


def build_grpc_server(
    data_plane: DataPlane, service: PredictorService, settings: PredictorSettings, buffer: Buffer
) -> grpc.aio.Server:
    """Return a server bound to the gRPC port, not started; raises SettingsError where the port is taken."""
    # A tensor of the largest image and the message around it.
    limit = settings.max_body_bytes
    server = grpc.aio.server(
        interceptors=(CallEnvelope(buffer),),
        # Each may hold a message that does not end: what has not arrived whole is not counted in the buffer.
        maximum_concurrent_rpcs=settings.queue_size,
        options=[
            ("grpc.max_connection_idle_ms", int(settings.idle_timeout_seconds * 1000)),
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.so_reuseport", 0),
        ],
    )
    add_GRPCInferenceServiceServicer_to_server(VersionedServicer(data_plane, service), server)
    host = f"[{settings.predictor_host}]" if ":" in settings.predictor_host else settings.predictor_host
    try:
        server.add_insecure_port(f"{host}:{settings.predictor_grpc_port}")
    except RuntimeError:
        raise SettingsError(
            f"MODEL_SERVER_PREDICTOR_GRPC_PORT={settings.predictor_grpc_port}: cannot listen there; "
            "the port is taken. Set another, or 0 to turn gRPC off."
        ) from None
    return server
