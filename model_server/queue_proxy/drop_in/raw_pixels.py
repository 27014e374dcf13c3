"""Pixels without a header to an image that every decoder reads, an uncompressed TIFF. Pure."""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from model_server.errors import InvalidInput, PayloadTooLarge

ITEM_CODES = {"uint8": "B", "float32": "f", "float64": "d"}
"""The ``array`` module's name of each kind of number that is read, little-endian."""
SHAPE = re.compile(r"([1-9][0-9]{0,4})\s*[xX]\s*([1-9][0-9]{0,4})(?:\s*[xX]\s*([13]))?")
SHORT, LONG = 3, 4
BLACK_IS_ZERO, RGB = 1, 2


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """What raw pixels are: rows of ``height`` x ``width``, 3 channels or 1 (0: told by their number), a dtype."""

    height: int
    width: int
    channels: int
    dtype: str

    @classmethod
    def parse(cls, shape: str, dtype: str) -> PixelFormat:
        """Read ``"256x256"`` or ``"256x256x3"``, and a dtype; raises InvalidInput."""
        match = SHAPE.fullmatch(shape.strip())
        if match is None:
            raise InvalidInput('"shape" is height x width of the pixels, such as "256x256" or "256x256x3".')
        if dtype not in ITEM_CODES:
            raise InvalidInput(f'"dtype" is one of {", ".join(ITEM_CODES)}.')
        return cls(int(match[1]), int(match[2]), int(match[3] or 0), dtype)

    def channels_of(self, size: int) -> int | None:
        """Return the channels of so many bytes of pixels; None where they are not of this format."""
        one = self.height * self.width * array(ITEM_CODES[self.dtype]).itemsize
        return next((count for count in (3, 1) if count * one == size and self.channels in {0, count}), None)

    def expected(self) -> str:
        """Return in words how many bytes would do."""
        one = self.height * self.width * array(ITEM_CODES[self.dtype]).itemsize
        return " or ".join(f"{count * one:,}" for count in (3, 1) if self.channels in {0, count})


def to_tiff(pixels: bytes, form: PixelFormat, max_values: int) -> bytes:
    """Return raw pixels as an image of 8 bits a channel.

    Floats are 0..1 where none is above 1, else 0..255; they are converted one by one, so that more than ``max_values``
    raise PayloadTooLarge. Raises InvalidInput where their number or their range is wrong.
    """
    channels = form.channels_of(len(pixels))
    if channels is None:
        raise InvalidInput(
            f"{form.height}x{form.width} pixels of {form.dtype} are {form.expected()} bytes, not {len(pixels):,}."
        )
    if form.dtype != "uint8":
        pixels = _to_bytes(pixels, form.dtype, max_values)
    return _tiff(pixels, form.width, form.height, channels)


def _to_bytes(pixels: bytes, dtype: str, max_values: int) -> bytes:
    values = array(ITEM_CODES[dtype], pixels)
    if sys.byteorder == "big":
        values.byteswap()
    if len(values) > max_values:
        raise PayloadTooLarge(f"The image has more than {max_values:,} floats; send uint8, or an encoded image.")
    scaled: Iterable[float] = values if max(values) > 1 else (value * 255 for value in values)
    try:
        return bytes(map(round, scaled))
    except (ValueError, OverflowError):  # below 0, above 255, infinite, or not a number
        raise InvalidInput("Pixels are numbers from 0 to 1, or from 0 to 255.") from None


def _tiff(pixels: bytes, width: int, height: int, channels: int) -> bytes:
    """Return a TIFF 6.0 file of one strip; its directory comes first, then the bits of each sample, then the pixels."""
    tags = 9
    bits_at = 8 + 2 + 12 * tags + 4
    pixels_at = bits_at + 2 * channels
    bits = struct.pack(f"<{channels}H", *[8] * channels)
    entries = (
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        # A single value stands in the entry itself; several stand elsewhere.
        (258, SHORT, channels, bits_at if channels > 2 else 8),
        (259, SHORT, 1, 1),  # not compressed
        (262, SHORT, 1, RGB if channels == 3 else BLACK_IS_ZERO),
        (273, LONG, 1, pixels_at),
        (277, SHORT, 1, channels),
        (278, LONG, 1, height),
        (279, LONG, 1, len(pixels)),
    )
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, tags) + directory + struct.pack("<I", 0) + bits + pixels
