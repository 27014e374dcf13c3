"""A V2 request that is to be queued, over REST in JSON or with binary tensors: its images, as V1 would carry them."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from model_server.config import ServiceSettings
from model_server.errors import InvalidInput, UnsupportedMediaType
from model_server.http import body, bytes_tensor
from model_server.http.base64_text import decode_base64
from model_server.queue_proxy.intake import Work, check_count, work_of
from model_server.schema import BINARY_HEADER

INPUT = "image"


async def read_work(scope: Scope, data: bytes, settings: ServiceSettings) -> Work:
    """Check a body and return what to store; raises InvalidInput, PayloadTooLarge or UnsupportedMediaType.

    The prediction's resource is that of V1, so ``outputs`` and the reply's ``id`` have no effect.
    """
    media_type = body.media_type(scope)
    if media_type not in body.JSON_TYPES:
        raise UnsupportedMediaType(f"The content type {media_type[:64]!r} is not read; send application/json.")
    end = _json_end(body.header(scope, BINARY_HEADER.lower().encode()), len(data))
    document = body.parse_json(data[:end], settings.max_json_values)
    images = _images(_only_input(document), data[end:], settings.max_instances)
    return work_of(images, INPUT, settings)


def _json_end(json_length: str, total: int) -> int:
    if not json_length:
        return total
    if not (json_length.isascii() and json_length.isdigit() and int(json_length) <= total):
        raise InvalidInput(f"{BINARY_HEADER} is a number of bytes up to the body's {total:,}.")
    return int(json_length)


def _only_input(document: dict[str, Any]) -> dict[str, Any]:
    match document.get("inputs"):
        case [dict(tensor)] if tensor.get("name") == INPUT:
            return tensor
    raise InvalidInput(f'The body needs "inputs": a list of one object, whose name is {INPUT!r}.')


def _images(tensor: dict[str, Any], binary: bytes, most: int) -> list[bytes]:
    if tensor.get("datatype") != "BYTES":
        raise InvalidInput(
            f"A queued request carries encoded images: its input {INPUT!r} is BYTES. Arrays of pixels are only "
            "classified at once, without Prefer: respond-async."
        )
    match tensor.get("shape"):
        case [int(count)] | [int(count), 1] if count > 0 and not isinstance(count, bool):
            check_count(count, most)
        case _:
            raise InvalidInput(f"Input {INPUT!r} of BYTES has the shape [N], N the number of images.")
    elements = _elements(tensor, binary, count)
    if len(elements) != count:
        raise InvalidInput(f"Input {INPUT!r} has {len(elements):,} elements for the shape {tensor['shape']}.")
    return elements


def _elements(tensor: dict[str, Any], binary: bytes, most: int) -> list[bytes]:
    values, parameters = tensor.get("data"), tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if (values is None) == (size is None):
        raise InvalidInput(f'Input {INPUT!r} needs either "data" or the parameter "binary_data_size".')
    if size is not None:
        if size != len(binary):
            raise InvalidInput(f"binary_data_size is the number of bytes that follow the JSON: {len(binary):,}.")
        return bytes_tensor.split(binary, most, INPUT)
    if binary:
        raise InvalidInput(f"{len(binary):,} bytes behind the JSON belong to no input.")
    if not isinstance(values, list):
        raise InvalidInput(f'"data" of input {INPUT!r} is a list.')
    return [decode_base64(value, f"{INPUT}[{place}]") for place, value in enumerate(bytes_tensor.flatten(values))]
