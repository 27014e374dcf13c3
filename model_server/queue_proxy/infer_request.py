"""A V2 request that is to be queued, over REST in JSON or with binary tensors: its images, as V1 would carry them."""

from __future__ import annotations

from starlette.types import Scope

from model_server.config import ServiceSettings
from model_server.documents import v2_request
from model_server.documents.v1_request import check_count
from model_server.documents.v2_request import Request, Tensor
from model_server.errors import InvalidInput, UnsupportedMediaType, shown
from model_server.http import body, bytes_tensor
from model_server.http.base64_text import decode_base64
from model_server.queue_proxy.intake import Work, work_of
from model_server.schema import BINARY_HEADER

INPUT = "image"


async def read_work(scope: Scope, data: bytes, settings: ServiceSettings) -> Work:
    """Check a body and return what to store; raises InvalidInput, PayloadTooLarge or UnsupportedMediaType.

    The prediction's resource is that of V1, so ``outputs`` and the reply's ``id`` have no effect.
    """
    media_type = body.media_type(scope)
    if media_type not in body.JSON_TYPES:
        raise UnsupportedMediaType(f"The content type {shown(media_type)} is not read; send application/json.")
    json_length = body.header(scope, BINARY_HEADER.lower().encode())
    request, binary = v2_request.parse(data, json_length, settings.max_json_values)
    return work_of(_images(_only_input(request), binary, settings.max_instances), INPUT, settings)


def _only_input(request: Request) -> Tensor:
    match request.inputs:
        case [tensor] if tensor.name == INPUT:
            return tensor
    raise InvalidInput(f'The body needs "inputs": a list of one object, whose name is {INPUT!r}.')


def _images(tensor: Tensor, binary: bytes, most: int) -> list[bytes]:
    if tensor.datatype != "BYTES":
        raise InvalidInput(
            f"A queued request carries encoded images: its input {INPUT!r} is BYTES. Arrays of pixels are only "
            "classified at once, without Prefer: respond-async."
        )
    match tensor.shape:
        case [count] | [count, 1] if count > 0:
            check_count(count, most)
        case _:
            raise InvalidInput(f"Input {INPUT!r} of BYTES has the shape [N], N the number of images.")
    elements = _elements(tensor, binary, count)
    if len(elements) != count:
        raise InvalidInput(f"Input {INPUT!r} has {len(elements):,} elements for the shape {shown(tensor.shape)}.")
    return elements


def _elements(tensor: Tensor, binary: bytes, most: int) -> list[bytes]:
    size = tensor.parameters.binary_data_size if tensor.parameters else None
    if (tensor.data is None) == (size is None):
        raise InvalidInput(f'Input {INPUT!r} needs either "data" or the parameter "binary_data_size".')
    if tensor.data is None:
        if size != len(binary):
            raise InvalidInput(f"binary_data_size is the number of bytes that follow the JSON: {len(binary):,}.")
        return bytes_tensor.split(binary, most, INPUT)
    if binary:
        raise InvalidInput(f"{len(binary):,} bytes behind the JSON belong to no input.")
    return [decode_base64(value, f"{INPUT}[{place}]") for place, value in enumerate(bytes_tensor.flatten(tensor.data))]
