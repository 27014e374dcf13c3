"""Waiting until everything is ready, and saying so with a request that works when pasted."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from model_server.bundle import read_manifest
from model_server.errors import BundleError, Unavailable
from model_server.printable import printable
from model_server.up import asking

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
PATIENCE_LOOKS = 50
"""What holds up the start is said after so many looks, ten seconds."""


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
    """Return the name of the one model behind a ready server; raises Unavailable where it does not tell."""
    try:
        reply = await asyncio.to_thread(asking.get, f"{url}/v1/models")
        return str(json.loads(reply.body)["models"][0])
    except (OSError, HTTPException, ValueError, LookupError) as error:
        raise Unavailable(f"{url}/v1/models does not name a model: {error}.") from None


def text(url: str, model: str, image: Path, *, with_token: bool) -> str:
    """Return what is printed: the page, a request by curl and one by our own client."""
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(image.suffix[1:].lower(), image.suffix[1:].lower())
    predict = f"{url}/v1/models/{quote(model, safe='')}:predict"
    file = printable(shlex.quote(str(image)))
    content_type = printable(shlex.quote(f"Content-Type: image/{kind}"))
    bearer, option = (' -H "Authorization: Bearer $token"', ' --token "$token"') if with_token else ("", "")
    or_try = "to make an account and an API key, and with that as $token try" if with_token else "or try"
    return f"""
The model {printable(model)} is ready. Open {url} {or_try}:

  curl -s{bearer} -H {content_type} --data-binary @{file} {predict}
  {_program()} submit --url {url}{option} {file}

Ctrl-C ends everything.
"""


def picture_to_try(bundle: Path) -> Path:
    """Return the golden image that the model is surest of; a plain model has none, and gets a name to be replaced."""
    try:
        golden = read_manifest(bundle).golden
    except BundleError:
        golden = []
    surest = max(golden, key=lambda image: max(image.scores), default=None)
    return bundle / surest.file if surest else Path("photo.jpg")


def _program() -> str:
    """Return how this program is called, also where it is not on the PATH."""
    called = Path(sys.argv[0])
    return (
        shlex.quote(str(called)) if called.name == "model-server" else f"{shlex.quote(sys.executable)} -m model_server"
    )


def _obstacle(url: str) -> str | None:
    try:
        reply = asking.get(url)
    except (OSError, HTTPException) as error:
        return f"{url} does not answer: {error}."
    if reply.status == HTTPStatus.OK:
        return None
    try:
        return str(json.loads(reply.body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{url} answers with status {reply.status}."
