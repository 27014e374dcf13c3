"""KServe V1: instances in, predictions out (https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol)."""

from __future__ import annotations

from typing import Any

from model_server.classifier import Picture
from model_server.errors import InvalidInput
from model_server.http.base64_text import decode_base64
from model_server.http.body import only_keys
from model_server.predictor.json_arrays import to_array

DEFAULT_TOP_K = 5


def parse(document: dict[str, Any], max_instances: int) -> tuple[list[Picture], int]:
    """Return the pictures of a request and ``top_k``; raises InvalidInput."""
    only_keys(document, {"instances", "parameters", "signature_name"}, "field")
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidInput('The body needs "instances": a list of at least one image.')
    check_count(len(instances), max_instances)
    return [_picture(item, f"instances[{place}]") for place, item in enumerate(instances)], _top_k(document)


def check_count(count: int, max_instances: int) -> None:
    """Raise InvalidInput where one request has more images than are allowed."""
    if count > max_instances:
        raise InvalidInput(f"The request has {count:,} images; at most {max_instances:,} are allowed.")


def _top_k(document: dict[str, Any]) -> int:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInput('"parameters" is an object.')
    only_keys(parameters, {"top_k"}, "parameter")
    top_k = parameters.get("top_k", DEFAULT_TOP_K)
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise InvalidInput('"top_k" is an integer of at least 1.')
    return top_k


def _picture(item: Any, where: str) -> Picture:
    if isinstance(item, dict) and len(item) == 1 and "b64" not in item:
        (item,) = item.values()
    if isinstance(item, dict) and item.keys() == {"b64"} and isinstance(item["b64"], str):
        return decode_base64(item["b64"], f"{where}.b64")
    if isinstance(item, list):
        return _array(item, where)
    raise InvalidInput(f'{where} is neither {{"b64": "…"}} nor an array of height x width x 3.')


def _array(nested: list[Any], where: str) -> Picture:
    try:
        return to_array(nested)
    except TypeError:
        raise InvalidInput(f"{where}: the elements of an image array are numbers from 0 to 255.") from None
    except (ValueError, OverflowError):
        raise InvalidInput(f"{where} is not an array of height x width x 3: its rows differ in length.") from None
