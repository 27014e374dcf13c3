"""Pictures that are small to send and ruinous to decode, each for another reason."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from bad_inputs import png_chunk
from pictures import encode

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_SIZES, EXTRA_SAMPLES = 273, 278, 279, 338
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES = 322, 323, 324, 325
RAW, GROUP_4, LZW, DEFLATE, PACKBITS, ZSTD = 1, 4, 5, 8, 32773, 50000


def tiff(tags: dict[int, list[int]], data: bytes, *, offsets: int, count: int) -> bytes:
    """A TIFF of ``count`` parts, tiles or strips as the tag ``offsets`` says, that are all the same ``data``."""
    sizes = TILE_SIZES if offsets == TILE_OFFSETS else STRIP_SIZES
    tags = {**tags, offsets: [0] * count, sizes: [len(data)] * count}
    end = 8 + 2 + 12 * len(tags) + 4
    beyond = {tag: 4 * len(values) for tag, values in tags.items() if len(values) > 1}
    start = end + sum(beyond.values())
    tags[offsets] = [start] * count
    entries, outside = b"", b""
    for tag, values in sorted(tags.items()):
        content = struct.pack(f"<{len(values)}I", *values)
        place = content if len(values) == 1 else struct.pack("<I", end + len(outside))
        outside += content if len(values) > 1 else b""
        entries += struct.pack("<HHI", tag, 4, len(values)) + place
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + outside + data


def rgba(width: int, height: int, compression: int = DEFLATE) -> dict[int, list[int]]:
    return {
        WIDTH: [width], HEIGHT: [height], BITS: [8, 8, 8, 8], COMPRESSION: [compression],
        PHOTOMETRIC: [2], SAMPLES: [4], EXTRA_SAMPLES: [2],
    }  # fmt: skip


def shared_tiles(count: int, side: int) -> bytes:
    """A picture 1 pixel wide in tiles of ``side`` x 16, all of them the same block."""
    tags = {**rgba(1, 16 * count), TILE_WIDTH: [side], TILE_HEIGHT: [16]}
    return tiff(tags, zlib.compress(bytes(side * 16 * 4), 9), offsets=TILE_OFFSETS, count=count)


def giant_tile(width: int, height: int) -> bytes:
    """16 x 16 pixels in one tile of another size."""
    tags = {**rgba(16, 16), TILE_WIDTH: [width], TILE_HEIGHT: [height]}
    return tiff(tags, zlib.compress(bytes(4096), 9), offsets=TILE_OFFSETS, count=1)


def shared_strips(height: int, block: bytes, width: int = 1) -> bytes:
    """A strip for each row, all of them the same ``block`` of deflate."""
    tags = {**rgba(width, height), ROWS_PER_STRIP: [1]}
    return tiff(tags, block, offsets=STRIP_OFFSETS, count=height)


def empty_blocks(size: int, content: bytes) -> bytes:
    """A zlib stream of ``content`` behind ``size`` bytes of stored blocks that hold nothing (RFC 1951, 3.2.4)."""
    return b"\x78\x01" + b"\0\0\0\xff\xff" * (size // 5) + zlib.compress(content)[2:]


def many_scans(scans: int, width: int, height: int) -> bytes:
    """A progressive JPEG whose last scan comes ``scans`` times."""
    jpeg = encode(Image.effect_noise((width, height), 9), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * scans + jpeg[-2:]


def short_scans(scans: int, width: int, height: int) -> bytes:
    """A progressive JPEG with ``scans`` scans of the last bit of one coefficient that hold next to nothing."""
    jpeg = encode(Image.new("L", (width, height)), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * scans + jpeg[-2:]


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP of 46 bytes: an animation's canvas, and a frame of one pixel."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    one = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frame = bytes(12) + b"\0\0\0\0" + one
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas
    chunks += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of one pixel with these chunks before its pixels."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in parts)


def group_4_garbage(width: int, height: int, size: int) -> bytes:
    """A fax page of nonsense, of which libtiff complains line by line."""
    tags = {
        WIDTH: [width], HEIGHT: [height], BITS: [1], COMPRESSION: [GROUP_4], PHOTOMETRIC: [0], SAMPLES: [1],
        ROWS_PER_STRIP: [height],
    }  # fmt: skip
    return tiff(tags, bytes(range(1, 256)) * (size // 255), offsets=STRIP_OFFSETS, count=1)


def bmp_rle(width: int, height: int, pairs: int) -> bytes:
    """A run-length encoded BMP of runs of one pixel."""
    data = b"\x01\x00" * pairs
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + bytes(1024) + data


def gif_comments(size: int) -> bytes:
    """A GIF of one pixel behind ``size`` bytes of comments of one byte each."""
    gif = encode(Image.new("P", (1, 1)), "GIF")
    start = gif.index(b"\x2c\0\0\0\0")
    return gif[:start] + b"\x21\xfe\x01x\0" * (size // 5) + gif[start:]
