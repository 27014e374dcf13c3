"""Open Inference Protocol tensors: what they hold, whatever carries them."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_server.classifier import Picture
from model_server.documents.v1_request import check_count
from model_server.documents.v2_request import check_once
from model_server.errors import InvalidInput, shown
from model_server.http import bytes_tensor
from model_server.http.base64_text import decode_base64
from model_server.predictor.json_arrays import to_array

INPUT = "image"
OUTPUTS = ("label", "score", "scores")
INPUT_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}


@dataclass(frozen=True)
class InputTensor:
    """One input as it arrived: ``raw`` bytes, or ``values``, flat or nested."""

    name: str
    datatype: str
    shape: list[int]
    raw: bytes | None = None
    values: Sequence[Any] | None = None
    text_is_base64: bool = False


@dataclass(frozen=True)
class OutputTensor:
    """One output: ``datatype`` BYTES with an object array of bytes, or FP32; shape that of ``values``."""

    name: str
    datatype: str
    values: NDArray[Any]

    def raw(self) -> bytes:
        """Return the values as they travel in binary: little-endian, BYTES each behind its length in 4 bytes."""
        if self.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(value)) + value for value in self.values.flat)
        return self.values.astype("<f4", copy=False).tobytes()


def pictures(tensors: Sequence[InputTensor], max_instances: int) -> list[Picture]:
    """Return the images of the only input, ``image``; raises InvalidInput."""
    if len(tensors) != 1 or tensors[0].name != INPUT:
        names = shown([tensor.name for tensor in tensors]) if tensors else "none"
        raise InvalidInput(f"The model has one input, {INPUT!r}; the request has {names}.")
    tensor = tensors[0]
    _check_shape(tensor)
    check_count(tensor.shape[0], max_instances)
    if tensor.datatype == "BYTES":
        return _encoded(tensor)
    return list(_pixels(tensor))


def outputs(labels: Sequence[str], scores: NDArray[np.float32], requested: Sequence[str] | None) -> list[OutputTensor]:
    """Return the requested outputs, all where none is named; raises InvalidInput for one that does not exist."""
    best = scores.argmax(axis=1)
    names = np.array([labels[index].encode() for index in best], dtype=np.object_)
    every = {
        "label": OutputTensor("label", "BYTES", names),
        "score": OutputTensor("score", "FP32", scores[np.arange(len(best)), best]),
        "scores": OutputTensor("scores", "FP32", scores),
    }
    return [every[name] for name in check_outputs(requested)]


def describe_inputs() -> list[dict[str, Any]]:
    """Return the metadata of the inputs: encoded images; pixel arrays go under the same name."""
    return [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}]


def describe_outputs(classes: int) -> list[dict[str, Any]]:
    """Return the metadata of the outputs."""
    return [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "score", "datatype": "FP32", "shape": [-1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, classes]},
    ]


def check_outputs(requested: Sequence[str] | None) -> Sequence[str]:
    """Return the names of the outputs to send; raises InvalidInput for an unknown one, or one named twice."""
    for name in requested or ():
        if name not in OUTPUTS:
            raise InvalidInput(f"The model has no output {shown(name)}; it has {', '.join(OUTPUTS)}.")
    check_once(requested or ())
    return requested or OUTPUTS


def _check_shape(tensor: InputTensor) -> None:
    if tensor.datatype not in {"BYTES", *INPUT_DTYPES}:
        raise InvalidInput(f"Input {INPUT!r} is BYTES, UINT8 or FP32, not {shown(tensor.datatype)}.")
    sides = tensor.shape[1:]
    fits = sides in ([], [1]) if tensor.datatype == "BYTES" else len(sides) == 3 and sides[2] == 3
    if not tensor.shape or not fits or min(tensor.shape) < 1:
        wanted = "[N]" if tensor.datatype == "BYTES" else "[N, height, width, 3]"
        raise InvalidInput(f"Input {INPUT!r} of {tensor.datatype} has the shape {wanted}, not {shown(tensor.shape)}.")


def _encoded(tensor: InputTensor) -> list[Picture]:
    count = tensor.shape[0]
    values = (
        bytes_tensor.split(tensor.raw, count, INPUT)
        if tensor.raw is not None
        else bytes_tensor.flatten(tensor.values or ())
    )
    if len(values) != count:
        raise InvalidInput(f"Input {INPUT!r} has {len(values)} elements for the shape {shown(tensor.shape)}.")
    if not tensor.text_is_base64:
        return [bytes(value) for value in values]
    if not all(isinstance(value, str) for value in values):
        raise InvalidInput(f"The elements of input {INPUT!r} of BYTES are base64 text.")
    return [decode_base64(value, f"{INPUT}[{place}]") for place, value in enumerate(values)]


def _pixels(tensor: InputTensor) -> NDArray[Any]:
    dtype, count = INPUT_DTYPES[tensor.datatype], math.prod(tensor.shape)
    if tensor.raw is not None:
        if len(tensor.raw) != count * dtype.itemsize:
            raise InvalidInput(
                f"Input {INPUT!r} has {len(tensor.raw):,} bytes; {tensor.datatype} of shape {shown(tensor.shape)} "
                f"takes {count * dtype.itemsize:,}."
            )
        return np.frombuffer(tensor.raw, dtype).reshape(tensor.shape)
    try:
        values = to_array(tensor.values or ())
    except TypeError:
        raise InvalidInput(f"The data of input {INPUT!r} is not made of numbers.") from None
    except (ValueError, OverflowError):
        raise InvalidInput(f"The data of input {INPUT!r} is neither flat nor of its shape.") from None
    if values.dtype.kind not in "iuf":
        raise InvalidInput(f"The data of input {INPUT!r} is not made of numbers.")
    if values.size != count:
        raise InvalidInput(f"Input {INPUT!r} has {values.size:,} elements for the shape {shown(tensor.shape)}.")
    return values.reshape(tensor.shape)
