"""A V2 inference request, as predictor and queue-proxy read it (https://github.com/kserve/open-inference-protocol)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, InstanceOf

from model_server.documents.document import Document, read
from model_server.errors import InvalidInput, shown
from model_server.http import json_body
from model_server.http.numbers import bounded_integer
from model_server.schema import BINARY_HEADER

LARGEST_COUNT = 2**31 - 1
MOST_SIDES, MOST_TENSORS = 8, 16
TENSORS = f"a list of at most {MOST_TENSORS} objects"
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
LONGEST_ID = 1024


class TensorParameters(Document):
    """What the binary tensor extension says of an input."""

    binary_data_size: Count | None = Field(None, description="a number of bytes that follow the JSON")
    content_type: str | None = Field(None, description="a string")


class Tensor(Document):
    """An input; ``data`` is as it came, flat or nested."""

    name: str = Field(description="a string")
    shape: list[Count] = Field(
        max_length=MOST_SIDES,
        fail_fast=True,
        description=f"a list of at most {MOST_SIDES} integers from 0 to {LARGEST_COUNT:,}",
    )
    datatype: str = Field(description="a string")
    parameters: TensorParameters | None = Field(None, description="an object")
    data: InstanceOf[list[Any]] | None = Field(None, description="a list")


class OutputParameters(Document):
    """What the binary tensor extension says of an output."""

    binary_data: bool | None = Field(None, description="true or false")


class Output(Document):
    """An output that is asked for."""

    name: str = Field(description="a string")
    parameters: OutputParameters | None = Field(None, description="an object")


class RequestParameters(Document):
    """What the binary tensor extension says of all outputs."""

    binary_data_output: bool | None = Field(None, description="true or false")


class Request(Document):
    """The JSON of a request; ``id`` is sent back."""

    id: str | None = Field(None, max_length=LONGEST_ID, description="a string of at most 1,024 characters")
    model_name: str | None = Field(None, description="a string")
    model_version: str | None = Field(None, description="a string")
    parameters: RequestParameters | None = Field(None, description="an object")
    inputs: list[Tensor] = Field(max_length=MOST_TENSORS, fail_fast=True, description=TENSORS)
    outputs: list[Output] | None = Field(None, max_length=MOST_TENSORS, fail_fast=True, description=TENSORS)


def parse(body: bytes, json_length: str, max_values: int) -> tuple[Request, bytes]:
    """Return a request and the binary tensors behind it; all is JSON where ``json_length`` is empty.

    Raises InvalidInput, also where an output is asked for twice.
    """
    end = _json_end(json_length, len(body))
    request = read(Request, json_body.parse(body[:end], max_values))
    check_once([output.name for output in request.outputs or ()])
    return request, body[end:]


def check_once(outputs: Sequence[str]) -> None:
    """Raise InvalidInput that names an output which is asked for twice: a short request, a long reply."""
    if len(set(outputs)) != len(outputs):
        ((name, _),) = Counter(outputs).most_common(1)
        raise InvalidInput(f"The output {shown(name)} is asked for twice; each is sent once.")


def _json_end(json_length: str, total: int) -> int:
    end = bounded_integer(json_length, 0, total) if json_length else total
    if end is None:
        raise InvalidInput(f"{BINARY_HEADER} is a number of bytes up to the body's {total:,}.")
    return end
