"""The export: a tar that ``model-server train --feedback`` reads, or tasks for Label Studio, as a stream."""

from __future__ import annotations

import tarfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import orjson

from model_server.feedback import label_studio
from model_server.store.labelled import LabelledPictures
from model_server.store.models import Record

LABELS = "labels.jsonl"
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
}
BLOCK = 512
END = b"\0" * (2 * BLOCK)


def image_name(row: Record) -> str:
    """Return the name of a picture within the tar."""
    return f"images/{row.image_sha256.hex()}{SUFFIXES.get(row.media_type, '.img')}"


def line(row: Record) -> bytes:
    """Return the line of ``labels.jsonl`` about a picture.

    ``votes`` of ``judges`` named the label; the rest is about the newest prediction of it that was judged.
    """
    entry = {
        "image": image_name(row),
        "label": row.label,
        "votes": row.votes,
        "judges": row.judges,
        "predicted_class": row.predicted_class,
        "score": row.score,
        "model": row.model,
        "model_version": row.model_version,
    }
    return orjson.dumps(entry) + b"\n"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of ``labels.jsonl`` and of the whole tar."""

    labels: int
    tar: int


async def measure(pictures: LabelledPictures) -> Sizes:
    """Count the bytes that ``tar`` will yield: a tar has the size of a file before its content."""
    labels = images = 0
    async with aclosing(pictures.rows()) as rows:
        async for row in rows:
            labels += len(line(row))
            images += BLOCK + _padded(row.bytes)
    return Sizes(labels, BLOCK + _padded(labels) + images + len(END))


async def tar(pictures: LabelledPictures, sizes: Sizes) -> AsyncGenerator[bytes]:
    """Yield the tar: ``labels.jsonl``, then the pictures."""
    yield _header(LABELS, sizes.labels)
    async with aclosing(pictures.rows()) as rows:
        async for row in rows:
            yield line(row)
    yield _padding(sizes.labels)
    async with aclosing(pictures.with_content()) as contents:
        async for row, content in contents:
            yield _header(image_name(row), len(content))
            yield content
            yield _padding(len(content))
    yield END


async def tasks(pictures: LabelledPictures, root: str) -> AsyncGenerator[bytes]:
    """Yield a JSON array of Label Studio's tasks, whose images lie below ``root``."""
    separator = b"[\n"
    async with aclosing(pictures.rows()) as rows:
        async for row in rows:
            yield separator + orjson.dumps(label_studio.task(row, root + image_name(row)))
            separator = b",\n"
    yield b"[]\n" if separator == b"[\n" else b"\n]\n"


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, int(time.time())
    return member.tobuf(tarfile.USTAR_FORMAT)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _padding(size: int) -> bytes:
    return b"\0" * (_padded(size) - size)
