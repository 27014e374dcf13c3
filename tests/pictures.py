"""Pictures that the tests draw: strongly asymmetric, so that a turned or mirrored one is another picture."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageDraw


def draw(width: int = 320, height: int = 240) -> Image.Image:
    """Return a blue-to-green ramp with a red disc in the upper left and a yellow bar on the right."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    picture = Image.fromarray(np.stack([across * 0.2, down, 255 - down], axis=-1).astype(np.uint8))
    brush = ImageDraw.Draw(picture)
    brush.ellipse((width * 0.1, height * 0.1, width * 0.5, height * 0.6), fill=(220, 20, 30))
    brush.rectangle((width * 0.8, height * 0.2, width * 0.9, height * 0.95), fill=(240, 220, 20))
    return picture


def encode(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    output = io.BytesIO()
    picture.save(output, kind, **options)  # type: ignore[arg-type]
    return output.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
