"""KServe V2 over REST, JSON and binary (https://github.com/kserve/open-inference-protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from model_server.errors import InvalidInput
from model_server.http.body import only_keys, parse_json
from model_server.predictor.tensors import InputTensor, OutputTensor

REQUEST_FIELDS = {"id", "model_name", "model_version", "parameters", "inputs", "outputs"}
REQUEST_PARAMETERS = {"binary_data_output"}
INPUT_FIELDS = {"name", "shape", "datatype", "parameters", "data"}
INPUT_PARAMETERS = {"binary_data_size", "content_type"}
OUTPUT_FIELDS = {"name", "parameters"}
OUTPUT_PARAMETERS = {"binary_data"}
LARGEST_COUNT = 2**31 - 1


@dataclass(frozen=True)
class InferenceRequest:
    """A parsed request; ``binary`` names the outputs that the caller wants in binary, None for all of them."""

    id: str | None
    inputs: list[InputTensor]
    outputs: list[str] | None
    binary: set[str] | None


def parse(body: bytes, json_length: str, max_values: int) -> InferenceRequest:
    """Parse a body whose JSON is ``json_length`` bytes long, all of it where that is empty; raises InvalidInput."""
    end = _json_end(json_length, len(body))
    document = parse_json(body[:end], max_values)
    only_keys(document, REQUEST_FIELDS, "field")
    identifier = document.get("id")
    if identifier is not None and not (isinstance(identifier, str) and _is_text(identifier)):
        raise InvalidInput('"id" is a string.')
    parameters = _parameters(document, REQUEST_PARAMETERS, "the request")
    names, binary = _outputs(document, all_binary=parameters.get("binary_data_output") is True)
    return InferenceRequest(identifier, _inputs(document, body[end:]), names, binary)


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


def _json_end(json_length: str, total: int) -> int:
    if not json_length:
        return total
    if not (json_length.isascii() and json_length.isdigit() and int(json_length) <= total):
        raise InvalidInput(f"Inference-Header-Content-Length is a number of bytes up to the body's {total:,}.")
    return int(json_length)


def _inputs(document: dict[str, Any], binary: bytes) -> list[InputTensor]:
    entries, start = _objects(document, "inputs"), 0
    tensors = []
    for place, entry in enumerate(entries):
        where = f"inputs[{place}]"
        only_keys(entry, INPUT_FIELDS, f"field of {where}")
        size = _parameters(entry, INPUT_PARAMETERS, where).get("binary_data_size")
        raw = None
        if size is not None:
            if not _is_count(size) or start + size > len(binary):
                raise InvalidInput(f"{where}: binary_data_size is a number of bytes that follow the JSON.")
            raw, start = binary[start : start + size], start + size
        tensors.append(_input(entry, where, raw))
    if start != len(binary):
        raise InvalidInput(f"{len(binary) - start:,} bytes behind the JSON belong to no input.")
    return tensors


def _input(entry: dict[str, Any], where: str, raw: bytes | None) -> InputTensor:
    name, datatype, shape, values = (entry.get(key) for key in ("name", "datatype", "shape", "data"))
    if not isinstance(name, str) or not isinstance(datatype, str):
        raise InvalidInput(f'{where} needs "name" and "datatype", both strings.')
    if not isinstance(shape, list) or not all(_is_count(side) for side in shape):
        raise InvalidInput(f'{where} needs "shape", a list of integers.')
    if (values is None) == (raw is None):
        raise InvalidInput(f'{where} needs either "data" or the parameter "binary_data_size".')
    if raw is None and not isinstance(values, list):
        raise InvalidInput(f'{where}: "data" is a list.')
    return InputTensor(name, datatype, shape, raw, values, text_is_base64=raw is None)


def _outputs(document: dict[str, Any], *, all_binary: bool) -> tuple[list[str] | None, set[str] | None]:
    if not document.get("outputs"):
        return None, None if all_binary else set()
    names, binary = [], set()
    for place, entry in enumerate(_objects(document, "outputs")):
        only_keys(entry, OUTPUT_FIELDS, f"field of outputs[{place}]")
        if not isinstance(entry.get("name"), str):
            raise InvalidInput(f'outputs[{place}] needs "name", a string.')
        names.append(entry["name"])
        if _parameters(entry, OUTPUT_PARAMETERS, f"outputs[{place}]").get("binary_data", all_binary) is True:
            binary.add(entry["name"])
    return names, binary


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInput(f'The body needs "{key}": a list of objects.')
    return entries


def _parameters(holder: dict[str, Any], allowed: set[str], where: str) -> dict[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f'"parameters" of {where} is an object.')
    only_keys(parameters, allowed, f"parameter of {where}")
    return parameters


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT


def _is_text(value: str) -> bool:
    """Whether a string can be sent back: JSON may hold half a character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
