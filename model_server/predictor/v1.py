"""KServe V1: instances in, predictions out (https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol)."""

from __future__ import annotations

from typing import Any

from model_server.classifier import Picture
from model_server.documents import v1_request
from model_server.errors import InvalidInput
from model_server.predictor.json_arrays import to_array


def parse(document: dict[str, Any], max_instances: int) -> tuple[list[Picture], int]:
    """Return the pictures of a request and ``top_k``; raises InvalidInput."""
    request = v1_request.parse(document, max_instances)
    pictures = [_picture(item, f"instances[{place}]") for place, item in enumerate(request.instances)]
    return pictures, request.parameters.top_k


def _picture(item: object, where: str) -> Picture:
    found = v1_request.image(item, where)
    return _array(found, where) if isinstance(found, list) else found


def _array(nested: list[Any], where: str) -> Picture:
    try:
        return to_array(nested)
    except TypeError:
        raise InvalidInput(f"{where}: the elements of an image array are numbers from 0 to 255.") from None
    except (ValueError, OverflowError):
        raise InvalidInput(f"{where} is not an array of height x width x 3: its rows differ in length.") from None
