"""The golden pictures: small scenes drawn by this program, the same on every machine."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from model_server import bundle as bundles


def gradient() -> Image.Image:
    """Draw red rising to the right, green downwards, blue against both."""
    across, down = np.meshgrid(np.linspace(0, 255, 120), np.linspace(0, 255, 90))
    return Image.fromarray(np.stack([across, down, 255 - (across + down) / 2], axis=-1).astype(np.uint8))


def disc() -> Image.Image:
    """Draw an orange disc on blue."""
    picture = Image.new("RGB", (128, 128), (30, 60, 150))
    ImageDraw.Draw(picture).ellipse((24, 24, 103, 103), fill=(240, 140, 20))
    return picture


def stripes() -> Image.Image:
    """Draw slanted stripes, black on yellow, in an upright picture."""
    across, down = np.meshgrid(np.arange(96), np.arange(144))
    dark = ((across + down) // 12 % 2 == 0)[..., np.newaxis]
    return Image.fromarray(np.where(dark, [20, 20, 20], [230, 200, 40]).astype(np.uint8))


def checkerboard() -> Image.Image:
    """Draw a green and white board of 8 x 8."""
    down, across = np.indices((8, 8))
    fields = np.where(((across + down) % 2 == 0)[..., np.newaxis], [250, 250, 250], [20, 110, 50])
    return Image.fromarray(fields.astype(np.uint8)).resize((112, 112), Image.Resampling.NEAREST)


def noise() -> Image.Image:
    """Draw coloured noise."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def silhouette() -> Image.Image:
    """Draw a four-legged animal, dark before a bright sky."""
    picture = Image.new("RGB", (160, 120), (150, 190, 235))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 92, 159, 119), fill=(110, 140, 60))
    for leg in (48, 60, 96, 108):
        draw.rectangle((leg, 72, leg + 5, 100), fill=(60, 40, 30))
    draw.ellipse((40, 48, 118, 82), fill=(60, 40, 30))
    draw.ellipse((104, 28, 136, 58), fill=(60, 40, 30))
    draw.polygon(((108, 34), (112, 18), (120, 32)), fill=(60, 40, 30))
    return picture


def landscape() -> Image.Image:
    """Draw hills, a house and a sun: a wide picture, larger than most models' input."""
    across, down = np.meshgrid(np.arange(640), np.arange(400))
    sky = np.stack([120 + down / 4, 170 + down / 8, np.full(down.shape, 235.0)], axis=-1)
    hills = down > 250 + 40 * np.sin(across / 70)
    picture = Image.fromarray(np.where(hills[..., np.newaxis], [70, 130, 60], sky).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((470, 40, 550, 120), fill=(250, 220, 90))
    draw.rectangle((250, 220, 370, 320), fill=(200, 190, 170))
    draw.polygon(((235, 220), (310, 150), (385, 220)), fill=(170, 50, 40))
    return picture


SCENES: tuple[tuple[Callable[[], Image.Image], str], ...] = (
    (gradient, "png"),
    (disc, "png"),
    (stripes, "png"),
    (checkerboard, "png"),
    (noise, "png"),
    (silhouette, "png"),
    (landscape, "jpg"),
)


def draw(folder: Path) -> list[str]:
    """Draw every scene below ``folder``; return their paths inside it."""
    (folder / bundles.GOLDEN).mkdir()
    files = []
    for scene, suffix in SCENES:
        encoded = io.BytesIO()
        scene().save(encoded, "JPEG" if suffix == "jpg" else "PNG", quality=90)
        files.append(f"{bundles.GOLDEN}/{scene.__name__}.{suffix}")
        (folder / files[-1]).write_bytes(encoded.getvalue())
    return files
