"""A V1 request, as predictor and queue-proxy read it.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, InstanceOf

from model_server.documents.document import Document, read
from model_server.errors import InvalidInput
from model_server.http.base64_text import decode_base64

DEFAULT_TOP_K, MOST_TOP_K = 5, 1000
"""More classes of one image than that make a long reply of a short request."""
TopK = Annotated[int, Field(ge=1, le=MOST_TOP_K)]
TOP_K = f"an integer from 1 to {MOST_TOP_K:,}"


class Parameters(Document):
    """What a caller may ask for beside the images."""

    top_k: TopK = Field(DEFAULT_TOP_K, description=TOP_K)


class Request(Document):
    """``instances`` is as it came: each is an image in base64 or an array."""

    instances: Annotated[InstanceOf[list[Any]], Field(min_length=1)] = Field(description="a list of at least one image")
    parameters: Parameters = Field(Parameters(), description="an object")
    signature_name: str | None = Field(None, description="a string")


class ColumnRequest(Document):
    """The same in TensorFlow Serving's column format: ``inputs`` has one image, a list, or either by a name."""

    inputs: Any = Field(description="an image, a list of images, or an object of one of these")
    parameters: Parameters | None = Field(None, description="an object")
    signature_name: str | None = Field(None, description="a string")


def parse(document: object, max_instances: int) -> Request:
    """Return a request; raises InvalidInput, also where it has more images than are allowed."""
    request = read(Request, document)
    check_count(len(request.instances), max_instances)
    return request


def check_count(count: int, max_instances: int) -> None:
    """Raise InvalidInput where one request has more images than are allowed."""
    if count > max_instances:
        raise InvalidInput(f"The request has {count:,} images; at most {max_instances:,} are allowed.")


def image(item: object, where: str) -> bytes | list[Any]:
    """Return the bytes of ``{"b64": …}``, bare or in a wrapper of one key, or else an array as it is."""
    if isinstance(item, dict) and len(item) == 1 and "b64" not in item:
        (item,) = item.values()
    if isinstance(item, list):
        return item
    if isinstance(item, dict) and item.keys() == {"b64"} and isinstance(item["b64"], str):
        return decode_base64(item["b64"], f"{where}.b64")
    raise InvalidInput(f'{where} is neither {{"b64": "…"}} nor an array of height x width x 3.')
