"""Encoded picture or pixel array to model input. Pure: no files, no network, no settings."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_server.bundle import InputSpec
from model_server.errors import InvalidInput, PayloadTooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# libjpeg may shrink while it decodes as long as twice the needed size is left for the resize filter,
# where the result cannot be told from that of a full decode.
REDUCING_GAP = 2.0
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ORIENTATION_TAG = 0x0112
# EXIF 2.32, 4.6.4 A: how the stored picture must be turned to stand upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED_SIDEWAYS = {5, 6, 7, 8}


@dataclass(frozen=True)
class Limits:
    """What a stranger may send: encoded bytes, and pixels as the header states them."""

    max_bytes: int
    max_pixels: int


def decode(data: bytes, spec: InputSpec, limits: Limits) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG, WebP, BMP, GIF (first frame) or TIFF upright to uint8 [height, width, 3], 0..255.

    Transparency is laid over white. Raises PayloadTooLarge before decoding, InvalidInput for what is no such image.
    """
    if not data:
        raise InvalidInput("The image is empty.")
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(f"The image has {len(data):,} bytes; at most {limits.max_bytes:,} are allowed.")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = picture.size
        if width * height > limits.max_pixels:
            raise InvalidInput(f"The image has {width} x {height} pixels; at most {limits.max_pixels:,} are allowed.")
        if picture.format == "JPEG":
            side = int(REDUCING_GAP * max(spec.height, spec.width) / spec.crop_fraction)
            picture.draft(None, (side, side))
        picture.load()
        orientation = picture.getexif().get(ORIENTATION_TAG, 1)
        return _fit(_to_rgb(picture), spec, orientation)
    except InvalidInput:
        raise
    except Image.DecompressionBombError:
        raise InvalidInput(f"The image has too many pixels; at most {limits.max_pixels:,} are allowed.") from None
    except Image.UnidentifiedImageError:
        raise InvalidInput("The data is not an image; JPEG, PNG, WebP, BMP, GIF and TIFF are read.") from None
    except Exception:  # noqa: BLE001 - Pillow's parsers raise whatever a malformed file makes them raise
        raise InvalidInput("The image is damaged or incomplete and cannot be decoded.") from None


def fit_pixels(pixels: NDArray[Any], spec: InputSpec) -> NDArray[np.uint8]:
    """Bring an RGB array [H, W, 3] of numbers 0..255 to uint8 [height, width, 3]; InvalidInput for any other."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InvalidInput(f"An image array has the shape [height, width, 3], not {list(pixels.shape)}.")
    if pixels.dtype != np.uint8:
        # NaN fails every comparison, so the test asks for what is right.
        if not (pixels.dtype.kind in "iuf" and bool(((pixels >= 0) & (pixels <= 255)).all())):
            raise InvalidInput("The elements of an image array are numbers from 0 to 255.")
        pixels = np.rint(pixels).astype(np.uint8)
    if pixels.shape[:2] == (spec.height, spec.width):
        return pixels
    return _fit(Image.fromarray(pixels), spec, orientation=1)


def scale(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[Any]:
    """Turn uint8 RGB [..., 3] into the model's input of the same shape, in its dtype, channel order and range."""
    if spec.channels == "bgr":
        pixels = pixels[..., ::-1]
    if spec.dtype == "uint8" and spec.scale == (1.0, 1.0, 1.0) and spec.offset == (0.0, 0.0, 0.0):
        return pixels
    scaled = pixels * np.asarray(spec.scale, np.float32)
    scaled += np.asarray(spec.offset, np.float32)
    if spec.dtype == "float32":
        return scaled
    bounds = np.iinfo(spec.dtype)
    return np.clip(np.rint(scaled), bounds.min, bounds.max).astype(spec.dtype)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I"):  # 16 bits a sample: Pillow's own conversion would clip, not scale
        return Image.fromarray((np.asarray(picture).clip(0, 0xFFFF) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return picture.convert("RGB")


def _fit(picture: Image.Image, spec: InputSpec, orientation: int) -> NDArray[np.uint8]:
    sideways = orientation in TURNED_SIDEWAYS
    size = (spec.height, spec.width) if sideways else (spec.width, spec.height)
    if picture.size != size or (spec.resize == "crop" and spec.crop_fraction < 1):
        box = _centred_box(picture.size, size, spec.crop_fraction) if spec.resize == "crop" else None
        picture = picture.resize(size, FILTERS[spec.filter], box=box, reducing_gap=REDUCING_GAP)
    if orientation in UPRIGHT:
        picture = picture.transpose(UPRIGHT[orientation])
    return np.asarray(picture)


def _centred_box(size: tuple[int, int], target: tuple[int, int], fraction: float) -> tuple[float, float, float, float]:
    ratio = min(size[0] / target[0], size[1] / target[1]) * fraction
    width, height = target[0] * ratio, target[1] * ratio
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height
