"""The data of a V2 tensor of BYTES, whose elements are encoded images."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from model_server.errors import InvalidInput, shown


def split(binary: bytes, most: int, name: str) -> list[bytes]:
    """Return elements, each behind its length in 4 bytes, little-endian; raises InvalidInput that names the input.

    No more than ``most``, the count of the tensor's shape: there may be millions of empty ones.
    """
    elements: list[bytes] = []
    start = 0
    while start < len(binary):
        if len(elements) == most:
            raise InvalidInput(f"Input {shown(name)} has more elements than the {most:,} of its shape.")
        if start + 4 > len(binary):
            raise InvalidInput(f"Input {shown(name)} ends within the length of an element.")
        (length,) = struct.unpack_from("<I", binary, start)
        start += 4
        if start + length > len(binary):
            raise InvalidInput(f"Input {shown(name)} ends within an element of {length:,} bytes.")
        elements.append(binary[start : start + length])
        start += length
    return elements


def flatten(values: Sequence[Any]) -> list[Any]:
    """Return the elements of JSON data, which may be flat or nested as the shape [N, 1] is."""
    return [element for value in values for element in (value if isinstance(value, list) else [value])]
