"""Waiting until everything is ready, and saying so with a request that works when pasted."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote, urlsplit

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
PATIENCE_LOOKS = 50
"""What holds up the start is said after so many looks, ten seconds."""
TIMEOUT_SECONDS = 5


async def wait_until_ready(url: str) -> None:
    """Return once the URL answers with 200; what it says instead is logged after ten seconds, and when it changes."""
    said = None
    looks = 0
    while (reason := await asyncio.to_thread(_obstacle, url)) is not None:
        looks += 1
        if looks >= PATIENCE_LOOKS and reason != said:
            logger.warning("still waiting: %s", reason)
            said = reason
        await asyncio.sleep(LOOK_SECONDS)


async def model_name(url: str) -> str:
    """Return the name of the one model behind a ready server."""
    _, body = await asyncio.to_thread(_get, f"{url}/v1/models")
    return str(json.loads(body)["models"][0])


def text(url: str, model: str, images: Sequence[Path]) -> str:
    """Return what is printed: the page, a request by curl and one by our own client."""
    image = images[0] if images else Path("photo.jpg")
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(image.suffix[1:].lower(), image.suffix[1:].lower())
    predict = f"{url}/v1/models/{quote(model, safe='')}:predict"
    file = shlex.quote(str(image))
    return f"""
The model {model} is ready. Open {url} or try:

  curl -s -H 'Content-Type: image/{kind}' --data-binary @{file} {predict}
  model-server submit --url {url} {file}

Ctrl-C ends everything.
"""


def golden_images(bundle: Path) -> list[Path]:
    """Return the bundle's golden images; a plain model has none."""
    return sorted((bundle / "golden").glob("*.*"))


def _obstacle(url: str) -> str | None:
    try:
        status, body = _get(url)
    except (OSError, HTTPException) as error:
        return f"{url} does not answer: {error}."
    if status == HTTPStatus.OK:
        return None
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{url} answers with status {status}."


def _get(url: str) -> tuple[int, bytes]:
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", address.path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()
