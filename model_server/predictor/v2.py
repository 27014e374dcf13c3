"""KServe V2 over REST, JSON and binary (https://github.com/kserve/open-inference-protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from model_server.documents import v2_request
from model_server.documents.v2_request import Output, Tensor
from model_server.errors import InvalidInput
from model_server.predictor.tensors import InputTensor, OutputTensor


@dataclass(frozen=True)
class InferenceRequest:
    """A parsed request; ``binary`` names the outputs that the caller wants in binary, None for all of them."""

    id: str | None
    inputs: list[InputTensor]
    outputs: list[str] | None
    binary: set[str] | None


def parse(body: bytes, json_length: str, max_values: int) -> InferenceRequest:
    """Parse a body whose JSON is ``json_length`` bytes long, all of it where that is empty; raises InvalidInput."""
    request, binary = v2_request.parse(body, json_length, max_values)
    all_binary = bool(request.parameters and request.parameters.binary_data_output)
    names, in_binary = _outputs(request.outputs or [], all_binary=all_binary)
    return InferenceRequest(request.id, _inputs(request.inputs, binary), names, in_binary)


def render(
    request: InferenceRequest, model: str, version: str, tensors: list[OutputTensor]
) -> tuple[bytes, int | None]:
    """Return the reply's body and the length of its JSON part, None where all of it is JSON."""
    described, appended = [], []
    for tensor in tensors:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "shape": list(tensor.values.shape),
            "datatype": tensor.datatype,
        }
        if request.binary is None or tensor.name in request.binary:
            appended.append(tensor.raw())
            entry["parameters"] = {"binary_data_size": len(appended[-1])}
        elif tensor.datatype == "BYTES":
            entry["data"] = [value.decode() for value in tensor.values.flat]
        else:
            entry["data"] = tensor.values.ravel()
        described.append(entry)
    reply = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        reply["id"] = request.id
    document = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((document, *appended)), len(document) if appended else None


def _inputs(entries: list[Tensor], binary: bytes) -> list[InputTensor]:
    start, tensors = 0, []
    for place, entry in enumerate(entries):
        size = entry.parameters.binary_data_size if entry.parameters else None
        end = start + (size or 0)
        if end > len(binary):
            raise InvalidInput(f"inputs[{place}]: binary_data_size is a number of bytes that follow the JSON.")
        if (entry.data is None) == (size is None):
            raise InvalidInput(f'inputs[{place}] needs either "data" or the parameter "binary_data_size".')
        raw = None if size is None else binary[start:end]
        tensor = InputTensor(entry.name, entry.datatype, entry.shape, raw, entry.data, text_is_base64=raw is None)
        tensors.append(tensor)
        start = end
    if start != len(binary):
        raise InvalidInput(f"{len(binary) - start:,} bytes behind the JSON belong to no input.")
    return tensors


def _outputs(entries: list[Output], *, all_binary: bool) -> tuple[list[str] | None, set[str] | None]:
    if not entries:
        return None, None if all_binary else set()
    names = [entry.name for entry in entries]
    return names, {entry.name for entry in entries if _is_binary(entry, all_binary=all_binary)}


def _is_binary(entry: Output, *, all_binary: bool) -> bool:
    wanted = entry.parameters.binary_data if entry.parameters else None
    return all_binary if wanted is None else wanted
