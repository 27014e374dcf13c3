"""What the structure of a picture says of the work in it, read in milliseconds before anything is decoded.

Cost is not in the size alone: parts may decode to more than the picture needs, or stand for the same bytes many times.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, TiffImagePlugin

from model_server.errors import TooCostly

MAX_SCANS = 100
"""A progressive JPEG of a camera or an editor has about 10; each goes over all of the picture again."""
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# ITU-T T.81, B.1.1.2: what begins a marker, but for stuffed bytes, fill bytes and restarts within a scan.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")

LARGEST_PART = 1 << 24
"""Pixels of a tile that is larger than its picture: 4096 x 4096 is in use for maps."""
PADDING = 2
"""Tiles at the edges stand out of the picture."""
SHARED_BYTES = 64 * 1024 * 1024
"""Tiles may stand for the same bytes where many are empty; all together read so much more than the file has."""


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP picture, for which its decoder takes memory when it is opened; None for others.

    WebP Container Specification, "Extended File Format"; RFC 6386, 9.1; WebP Lossless Bitstream, 3.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = struct.unpack("<HH", data[26:30])
            return width & 0x3FFF, height & 0x3FFF
    return None


def check(picture: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise TooCostly for an opened picture with more work in it than its pixels are."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        _check_parts(_parts(picture.tag_v2), picture.size, len(data), max_pixels)
    elif data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS and _has_many_scans(data):
        raise TooCostly(f"The JPEG has more than {MAX_SCANS} scans, more passes over a picture than are made.")


def _has_many_scans(data: bytes) -> bool:
    position, scans = 2, 0
    while scans <= MAX_SCANS and (marker := MARKER.search(data, position)):
        kind = data[marker.end() - 1]
        if kind == END_OF_IMAGE:
            return False
        scans += kind == START_OF_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans > MAX_SCANS


@dataclass(frozen=True)
class _Parts:
    """The tiles or strips of a TIFF picture: pixels of one, how many the picture needs, bytes that all of them name."""

    pixels: int
    needed: int
    named_bytes: int


def _parts(tags: Mapping[int, Any]) -> _Parts:
    """Read TIFF 6.0, sections 3 (strips) and 15 (tiles)."""
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    if TiffImagePlugin.TILEWIDTH in tags:
        across, down = tags[TiffImagePlugin.TILEWIDTH], tags[TiffImagePlugin.TILELENGTH]
        sizes = tags.get(TiffImagePlugin.TILEBYTECOUNTS, ())
    else:
        across, down = width, min(tags.get(TiffImagePlugin.ROWSPERSTRIP, height), height)
        sizes = tags.get(TiffImagePlugin.STRIPBYTECOUNTS, ())
    return _Parts(across * down, -(-width // across) * -(-height // down), sum(sizes))


def _check_parts(parts: _Parts, size: tuple[int, int], file_bytes: int, max_pixels: int) -> None:
    width, height = size
    if parts.pixels > max(LARGEST_PART, PADDING * width * height):
        raise TooCostly(f"The TIFF has {width} x {height} pixels in parts of {parts.pixels:,}: out of proportion.")
    held, allowed = parts.pixels * parts.needed, PADDING * max_pixels
    if held > allowed:
        raise TooCostly(f"The parts of the TIFF hold {held:,} pixels; at most {allowed:,} are decoded.")
    if parts.named_bytes > file_bytes + SHARED_BYTES:
        raise TooCostly(f"The parts of the TIFF name {parts.named_bytes:,} bytes; the file has {file_bytes:,}.")
