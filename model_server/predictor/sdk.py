"""The KServe SDK as this server uses it: its application, model registry and data plane."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from model_server import __version__
from model_server.errors import InvalidInput
from model_server.http.envelope import UNEXPECTED, error_response
from model_server.http.json_body import place
from model_server.predictor import tensors
from model_server.predictor.service import PredictorService


@contextmanager
def _no_arguments() -> Iterator[None]:
    """Hide the command line: the SDK parses ``sys.argv`` when it is imported."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


# Said once a process by FastAPI of the response class that the SDK gives its application; not ours to change.
warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")

with _no_arguments():
    import kserve
    from kserve.errors import ModelNotReady
    from kserve.model_server import app as sdk_app
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.infer_type import InferInput, InferOutput, InferRequest, InferResponse
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.server import RESTServer

logger = logging.getLogger(__name__)


class PredictorModel(kserve.Model):  # type: ignore[misc]
    """The model as the SDK sees it; gRPC requests reach it through the SDK's servicer."""

    def __init__(self, service: PredictorService, max_instances: int) -> None:
        super().__init__(service.name)
        self._service = service
        self._max_instances = max_instances

    async def healthy(self) -> bool:
        """Whether the golden check is passed."""
        return self._service.ready

    def load(self) -> bool:
        """Refuse: the SDK calls this where a model is asked for before it is ready."""
        raise ModelNotReady(self.name)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return V2 metadata of the inputs."""
        return tensors.describe_inputs()

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return V2 metadata of the outputs."""
        return tensors.describe_outputs(len(self._service.model.labels))

    async def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,  # noqa: ARG002 - the SDK passes both
        response_headers: dict[str, str] | None = None,  # noqa: ARG002
    ) -> InferResponse:
        """Answer one gRPC request."""
        model = self._service.require(payload.model_name, payload.model_version or None)
        requested = [output.name for output in payload.request_outputs or ()]
        tensors.check_outputs(requested)
        inputs = [_input_tensor(tensor) for tensor in payload.inputs]
        pictures = tensors.pictures(inputs, self._max_instances)
        scores = await self._service.classify(pictures, tensors.INPUT)
        outputs = [_infer_output(tensor) for tensor in tensors.outputs(model.labels, scores, requested)]
        return InferResponse(payload.id, self.name, outputs, model_version=self._service.version)


def _input_tensor(tensor: InferInput) -> tensors.InputTensor:
    raw = tensor._raw_data  # noqa: SLF001 - the SDK's public accessor turns bytes into Python lists
    values = None if raw is not None else list(tensor.data)
    return tensors.InputTensor(tensor.name, tensor.datatype, tensor.shape, raw, values)


def _infer_output(tensor: tensors.OutputTensor) -> InferOutput:
    return InferOutput(tensor.name, list(tensor.values.shape), tensor.datatype, tensor.values)


class DataPlaneOfOneModel(DataPlane):  # type: ignore[misc]
    """The SDK's data plane with a truthful server readiness and metadata."""

    def __init__(self, service: PredictorService, registry: Any) -> None:
        super().__init__(model_registry=registry)
        self._service = service

    async def ready(self) -> bool:
        """Whether the one model is ready."""
        return self._service.ready

    def metadata(self) -> dict[str, Any]:
        """Return V2 metadata of the server; loading models by request is no extension that it has."""
        return {"name": "model-server", "version": __version__, "extensions": ["binary_tensor_data"]}


def build_data_plane(service: PredictorService, max_instances: int) -> DataPlane:
    """Register the model with the SDK and return its data plane."""
    registry = kserve.ModelRepository()
    registry.update(PredictorModel(service, max_instances))
    return DataPlaneOfOneModel(service, registry)


def build_application(data_plane: DataPlane) -> Any:
    """Return the SDK's application with its routes, and with errors in KServe's shape."""
    rest = RESTServer("kserve.model_server:app", data_plane, ModelRepositoryExtension(data_plane.model_registry), 0)
    rest.create_application()
    # It would send callers to the address that it believes to be ours.
    sdk_app.router.redirect_slashes = False
    sdk_app.add_exception_handler(HTTPException, _http_error)
    sdk_app.add_exception_handler(RequestValidationError, _validation_error)
    sdk_app.add_exception_handler(Exception, _unexpected_error)
    return sdk_app


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    return error_response(error.status_code, str(error.detail))


async def _unexpected_error(_request: Request, _error: Exception) -> Response:
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED)


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    return error_response(InvalidInput.status, f"{place(error.errors()[0]['loc'])} is not valid.")
