"""Images within JSON: base64, as it is or in a data URL."""

from __future__ import annotations

from typing import Any

import pybase64

from model_server.errors import InvalidInput

DATA_URL = "data:"


def decode_base64(text: Any, where: str) -> bytes:
    """Return the bytes of standard base64 (RFC 4648) or of a data URL (RFC 2397); raises InvalidInput for all else."""
    if not isinstance(text, str):
        raise InvalidInput(f"{where} is not base64 text.")
    if text.startswith(DATA_URL):
        text = text.partition(",")[2]
    try:
        # 50 times as fast as the standard library, which takes as long for a photograph as parsing its JSON twice.
        return pybase64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error, and text that is not ASCII
        raise InvalidInput(f"{where} is not base64: {error}.") from None


def encode_base64(data: bytes) -> str:
    """Return standard base64."""
    return pybase64.b64encode_as_string(data)
