"""What a predictor's reply says. Ours sends what it promises; another one, or a broken one, may send anything."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from model_server.errors import BadGateway
from model_server.http.json_body import parse_reply
from model_server.http.numbers import bounded_integer

LONGEST_MESSAGE = 500
MOST_IMAGES = 1_000_000
"""In one reply: what is counted is added up in a column of 64 bit."""
VERSION = re.compile(r"[\x21-\x7e]{1,128}")
"""As long as the name of a version in a bundle may be."""
FIRST_FINAL, LAST = 200, 599


def check_status(status: int) -> int:
    """Return a status that ends a reply; raises BadGateway for any other, which nobody could be told."""
    if not FIRST_FINAL <= status <= LAST:
        raise BadGateway("The server behind this one answered with a status that HTTP does not have.")
    return status


def version_of(header: str | None) -> str | None:
    """Return the version that ``Model-Version`` names, None where it is absent or no name."""
    return header if header and VERSION.fullmatch(header) else None


def images_in(status: int, counted: str | None) -> int:
    """Return how many images a reply is about; another predictor than ours does not say it, and counts as one."""
    if status != HTTPStatus.OK:
        return 0
    count = bounded_integer(counted, 0, MOST_IMAGES) if counted else None
    return 1 if count is None else count


def predictions_of(body: bytes) -> list[Any] | None:
    """Return what a reply's body holds; None where that is not a V1 answer that can be stored."""
    document = parse_reply(body)
    predictions = document.get("predictions") if document else None
    return predictions if isinstance(predictions, list) and predictions else None


def message_of(body: bytes) -> str:
    """Return the sentence of an error reply in KServe's shape; empty where it has none."""
    document = parse_reply(body)
    message = document.get("error") if document else None
    return message[:LONGEST_MESSAGE] if isinstance(message, str) else ""
