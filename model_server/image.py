"""Encoded picture or pixel array to model input. Pure: no files, no network, no settings."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model_server import image_structure
from model_server.bundle import InputSpec
from model_server.errors import DamagedImage, InvalidInput, PayloadTooLarge

# The limit on pixels is ours, checked on the header; Pillow's would override it above 178 million.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata in the sender's words: nothing that a server's operator could act on.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# libjpeg may shrink while it decodes as long as twice the needed size is left for the resize filter,
# where the result cannot be told from that of a full decode.
REDUCING_GAP = 2.0
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_VALUE = 255
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
BAND_PIXELS = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What a stranger may send: encoded bytes, and pixels as the header states them; and what decoding it may cost.

    The cost, seconds of a processor and bytes of memory, is for the process that decodes to keep: see decoding.Budget.
    """

    max_bytes: int
    max_pixels: int
    cpu_seconds: float = 10.0
    memory_bytes: int = 512 * 1024 * 1024


def pixels(picture: bytes | NDArray[Any], spec: InputSpec, limits: Limits) -> NDArray[np.uint8]:
    """Bring an encoded picture or an RGB array to uint8 [height, width, 3]; raises what decode and fit_pixels do."""
    return decode(picture, spec, limits) if isinstance(picture, bytes) else fit_pixels(picture, spec)


def decode(data: bytes, spec: InputSpec, limits: Limits) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG, WebP, BMP, GIF (first frame) or TIFF upright to uint8 [height, width, 3], 0..255.

    Transparency is laid over white. Raises PayloadTooLarge or TooCostly before decoding, InvalidInput for any other
    data, MemoryError where there is none.
    """
    if not data:
        raise InvalidInput("The image is empty.")
    if len(data) > limits.max_bytes:
        raise PayloadTooLarge(f"The image has {len(data):,} bytes; at most {limits.max_bytes:,} are allowed.")
    try:
        if canvas := image_structure.webp_canvas(data):
            _check_pixels(canvas, limits)
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_pixels(picture.size, limits)
        image_structure.check(picture, data, limits.max_pixels)
        side = int(REDUCING_GAP * max(spec.height, spec.width) / spec.crop_fraction)
        picture.draft(None, (side, side))
        picture.load()
        return _fit(_to_rgb(picture), spec, _orientation(picture))
    except (InvalidInput, MemoryError):
        raise
    except UnidentifiedImageError:
        raise InvalidInput("The data is not an image; JPEG, PNG, WebP, BMP, GIF and TIFF are read.") from None
    except Exception:  # noqa: BLE001 - Pillow's parsers raise whatever a malformed file makes them raise
        raise DamagedImage("The image is damaged or incomplete and cannot be decoded.") from None


def fit_pixels(pixels: NDArray[Any], spec: InputSpec) -> NDArray[np.uint8]:
    """Bring an RGB array [H, W, 3] of numbers 0..255 to uint8 [height, width, 3]; InvalidInput for any other.

    An array that already has the input's height and width is taken as it is, neither cropped nor resized.
    """
    if pixels.shape[2:] != (3,) or 0 in pixels.shape:
        raise InvalidInput(f"An image array has the shape [height, width, 3], not {list(pixels.shape)}.")
    if pixels.dtype != np.uint8:
        # NaN fails every comparison, so the test asks for what is right.
        if not (pixels.dtype.kind in "iuf" and bool(((pixels >= 0) & (pixels <= MAX_VALUE)).all())):
            raise InvalidInput("The elements of an image array are numbers from 0 to 255.")
        pixels = np.rint(pixels).astype(np.uint8)
    if pixels.shape[:2] == (spec.height, spec.width):
        return pixels
    return _fit(Image.fromarray(pixels), spec, orientation=1)


def scale(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[Any]:
    """Turn uint8 RGB [..., 3] into the model's input of that shape, in its dtype, channel order and range."""
    if spec.channels == "bgr":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    if spec.dtype == "uint8" and spec.scale == (1.0, 1.0, 1.0) and spec.offset == (0.0, 0.0, 0.0):
        return pixels
    scaled = pixels * np.asarray(spec.scale, np.float32)
    scaled += np.asarray(spec.offset, np.float32)
    if spec.dtype == "float32":
        return scaled
    bounds = np.iinfo(spec.dtype)
    return np.clip(np.rint(scaled), bounds.min, bounds.max).astype(spec.dtype)


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise InvalidInput(f"The image has {width} x {height} pixels; at most {limits.max_pixels:,} are allowed.")


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - broken metadata, raised by any of Pillow's parsers, leaves the pixels good
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a sample: Pillow's own conversion would clip, not scale
        return _in_bands(picture, _upper_byte)
    if picture.has_transparency_data:
        return _in_bands(picture, _over_white)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _in_bands(picture: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert by parts: what lies between takes up to four times the memory of what comes out."""
    width, height = picture.size
    converted = Image.new("RGB", picture.size)
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        converted.paste(to_rgb(picture.crop((0, top, width, min(top + rows, height)))), (0, top))
    return converted


def _upper_byte(band: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(band).clip(0, 0xFFFF) >> 8).astype(np.uint8)).convert("RGB")


def _over_white(band: Image.Image) -> Image.Image:
    layers = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


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
    # Rounding may make target * (size / target) exceed size, and Pillow refuses a box outside the picture.
    width, height = min(target[0] * ratio, size[0]), min(target[1] * ratio, size[1])
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height
