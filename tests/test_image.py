"""Pictures as people send them: each oddity must reach the model upright and in colour, or be refused."""

from __future__ import annotations

import contextlib
import io
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_server import classifier, image
from model_server.bundle import InputSpec
from model_server.errors import InvalidInput, PayloadTooLarge
from pictures import encode

pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")

LIMITS = image.Limits(max_bytes=12 * 1024 * 1024, max_pixels=50_000_000)
STRETCH = InputSpec(height=32, width=32, resize="stretch")

# How an upright picture must be stored so that its EXIF orientation turns it back.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def landscape(width: int, height: int) -> Image.Image:
    """A smooth picture that no rotation or reflection maps onto itself, with colours of equal brightness."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 80 + 60 * np.sin(9 * x / width + 4 * y / height)], axis=-1)
    pixels[: height // 3, : width // 4] = (230, 20, 200)
    return Image.fromarray(pixels.astype(np.uint8))


def decode(data: bytes, spec: InputSpec = STRETCH, limits: image.Limits = LIMITS) -> NDArray[np.uint8]:
    pixels = image.decode(data, spec, limits)
    assert pixels.shape == (spec.height, spec.width, 3)
    assert pixels.dtype == np.uint8
    return pixels


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def with_exif(jpeg: bytes, payload: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from its parts, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in parts)


# --- formats and colour modes ---


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 2.0),
        ("JPEG", {"quality": 95, "progressive": True}, 2.0),
        ("PNG", {}, 0.0),
        ("WEBP", {"lossless": True}, 0.0),
        ("BMP", {}, 0.0),
        ("TIFF", {"compression": "tiff_lzw"}, 0.0),
        ("GIF", {}, 12.0),
        ("MPO", {"quality": 95, "save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, 2.0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_format_gives_the_same_picture(file_format: str, options: dict[str, Any], tolerance: float) -> None:
    picture = landscape(96, 64)
    reference = decode(encode(picture, "BMP"))
    assert difference(decode(encode(picture, file_format, **options)), reference) <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_colour_modes_become_rgb(mode: str) -> None:
    file_format = "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"
    picture = landscape(64, 64).convert(mode)
    expected = np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    assert difference(decode(encode(picture, file_format)), expected) < 4


def test_cmyk_is_not_inverted() -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 30)).convert("CMYK")
    assert decode(encode(red, "JPEG", quality=95))[16, 16].tolist() == pytest.approx((220, 30, 30), abs=6)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(file_format: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    spec = InputSpec(height=256, width=256, resize="stretch")
    pixels = decode(encode(Image.fromarray(ramp), file_format), spec)
    assert np.abs(pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    assert (pixels == pixels[..., :1]).all()


def test_16_bit_rgb_is_scaled_not_clipped() -> None:
    rows = (b"\0" + struct.pack(">HHH", 0x8000, 0x4000, 0xFFFF) * 2) * 2
    pixels = decode(png(2, 2, 16, 2, (b"IDAT", zlib.compress(rows))))
    assert pixels[0, 0].tolist() == [0x80, 0x40, 0xFF]


@pytest.mark.parametrize(
    ("mode", "opaque", "clear"), [("RGBA", (200, 0, 0, 255), (200, 0, 0, 0)), ("LA", (90, 255), (90, 0))]
)
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_transparency_shows_white(mode: str, opaque: tuple[int, ...], clear: tuple[int, ...], file_format: str) -> None:
    picture = Image.new(mode, (32, 32), opaque)
    picture.paste(clear, (0, 0, 32, 16))
    options = {"lossless": True} if file_format == "WEBP" else {}
    pixels = decode(encode(picture, file_format, **options))
    assert pixels[4, 16].tolist() == [255, 255, 255]
    assert pixels[28, 16].tolist() == list(Image.new(mode, (1, 1), opaque).convert("RGB").getpixel((0, 0)))


def test_half_transparent_black_over_white_is_grey() -> None:
    assert decode(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"))[0, 0] == pytest.approx((127,) * 3, abs=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_large_transparent_picture_is_laid_over_white_without_a_seam(mode: str) -> None:
    """It is converted in parts, as the whole would take several times its memory."""
    rows = np.add.outer(np.arange(1500), np.arange(1100)) % 256
    bands = np.stack([rows, rows[::-1], 255 - rows, rows[:, ::-1]], axis=-1)
    picture = Image.fromarray(bands.astype(np.uint8)).convert(mode)
    layers = picture.convert("RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    assert (decode(encode(picture, "PNG")) == decode(encode(whole, "PNG"))).all()


def test_palette_with_transparency_shows_white() -> None:
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (0, 0, 32, 16))
    for data in (encode(picture, "PNG", transparency=0), encode(picture, "GIF", transparency=0)):
        pixels = decode(data)
        assert pixels[4, 16].tolist() == [200, 100, 50]
        assert pixels[28, 16].tolist() == [255, 255, 255]


def test_transparent_colour_of_rgb_png_shows_white() -> None:
    rows = (b"\0" + b"\xff\0\0" + b"\0\xff\0") * 2
    data = png(2, 2, 8, 2, (b"tRNS", b"\0\xff\0\0\0\0"), (b"IDAT", zlib.compress(rows)))
    pixels = decode(data, InputSpec(height=2, width=2, resize="stretch"))
    assert pixels[0].tolist() == [[255, 255, 255], [0, 255, 0]]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert decode(data)[16, 16].tolist() == [255, 0, 0]


# --- EXIF ---


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    "spec",
    [
        STRETCH,
        InputSpec(height=48, width=48),
        InputSpec(height=40, width=64, resize="stretch"),
        InputSpec(height=64, width=40),
        InputSpec(height=29, width=61, crop_fraction=1),
    ],
    ids=["square-stretch", "square-crop", "wide-stretch", "tall-crop", "wide-crop-all"],
)
def test_exif_orientation_turns_the_picture_upright(orientation: int, spec: InputSpec) -> None:
    upright = landscape(360, 240)
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[image.ORIENTATION_TAG] = orientation
    reference = decode(encode(upright, "PNG"), spec)
    assert difference(decode(encode(stored, "JPEG", quality=95, subsampling=0, exif=exif), spec), reference) < 2
    assert difference(decode(encode(stored, "PNG", exif=exif), spec), reference) < 0.1


@pytest.mark.parametrize("file_format", ["WEBP", "TIFF"])
def test_exif_orientation_is_read_from_every_format_that_has_it(file_format: str) -> None:
    upright = landscape(60, 40)
    exif = Image.Exif()
    exif[image.ORIENTATION_TAG] = 6
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(upright.transpose(STORED[6]), file_format, exif=exif, **options)
    assert difference(decode(data), decode(encode(upright, "PNG"))) < 0.1


def exif_entry(kind: int, count: int, value: bytes) -> bytes:
    """EXIF with the orientation tag alone, in an arbitrary type."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", image.ORIENTATION_TAG, kind, count) + value + bytes(4)


BROKEN_EXIF = {
    "empty": b"Exif\0\0",
    "no header": b"Exif\0\0rubbish!",
    "cut off": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    "text": exif_entry(2, 2, b"6\0\0\0"),
    "two values": exif_entry(3, 2, b"\0\6\0\6"),
    "huge count": exif_entry(3, 0xFFFFFFFF, b"\0\6\0\0"),
    "unknown value": exif_entry(3, 1, b"\0\x63\0\0"),
}


@pytest.mark.parametrize("payload", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_lose_the_picture(file_format: str, payload: bytes) -> None:
    picture = Image.new("RGB", (32, 32), (200, 100, 50))
    data = (
        with_exif(encode(picture, "JPEG"), payload)
        if file_format == "JPEG"
        else encode(picture, file_format, exif=payload)
    )
    assert decode(data)[16, 16].tolist() == pytest.approx((200, 100, 50), abs=4)


# --- size, crop, resize ---


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (4000, 3000)])
@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_any_size_is_brought_to_the_input(size: tuple[int, int], resize: Any, file_format: str) -> None:
    data = encode(Image.new("RGB", size, (10, 120, 240)), file_format)
    pixels = decode(data, InputSpec(height=32, width=48, resize=resize))
    assert np.abs(pixels.astype(int) - (10, 120, 240)).max() <= 3


def test_crop_takes_the_middle_and_stretch_takes_all() -> None:
    picture = Image.new("RGB", (300, 100), "blue")
    picture.paste((255, 0, 0), (100, 0, 200, 100))
    data = encode(picture, "PNG")
    cropped = decode(data, InputSpec(height=30, width=30, crop_fraction=1))
    stretched = decode(data, InputSpec(height=30, width=30, resize="stretch"))
    assert (cropped[:, 3:-3] == (255, 0, 0)).all()
    assert stretched[15, [2, 15, 27]].tolist() == [[0, 0, 255], [255, 0, 0], [0, 0, 255]]


def test_crop_fraction_is_the_share_of_the_side_that_is_kept() -> None:
    picture = Image.new("RGB", (80, 80), "blue")
    picture.paste((255, 0, 0), (20, 20, 60, 60))
    data = encode(picture, "PNG")
    assert (decode(data, InputSpec(height=20, width=20, crop_fraction=0.5))[2:-2, 2:-2] == (255, 0, 0)).all()
    assert decode(data, InputSpec(height=20, width=20, crop_fraction=1))[0, 0].tolist() == [0, 0, 255]
    same_size = decode(data, InputSpec(height=80, width=80, crop_fraction=0.5))
    assert same_size[2, 2].tolist() == [255, 0, 0], "a picture that has the input's size is cropped as any other"


def test_crop_box_never_leaves_the_picture() -> None:
    # 3010 pixels to 224 x 299: the rounded box was 2e-13 pixels too high, and the request failed.
    for width, height in [(2997, 3010), (701, 714), (1001, 999), (333, 77)]:
        pixels = np.full((height, width, 3), 9, np.uint8)
        for target in [(299, 224), (224, 299), (96, 380), (225, 225)]:
            spec = InputSpec(height=target[0], width=target[1], crop_fraction=1)
            assert image.fit_pixels(pixels, spec).shape == (*target, 3)


@pytest.mark.parametrize("size", [(1600, 1200), (1201, 1777), (900, 4000), (449, 447)])
def test_shrinking_jpeg_decode_equals_full_decode(size: tuple[int, int]) -> None:
    jpeg = encode(landscape(*size), "JPEG", quality=90)
    lossless = encode(Image.open(io.BytesIO(jpeg)).convert("RGB"), "BMP")
    for spec in (
        InputSpec(height=96, width=96),
        InputSpec(height=64, width=128, resize="stretch", filter="bicubic"),
    ):
        assert difference(decode(jpeg, spec), decode(lossless, spec)) < 1


# --- limits and refusals ---


def test_too_many_bytes_are_refused() -> None:
    data = encode(Image.new("RGB", (32, 32)), "BMP")
    with pytest.raises(PayloadTooLarge, match=r"has 3,126 bytes; at most 1,000 are allowed\.$"):
        decode(data, limits=image.Limits(max_bytes=1000, max_pixels=10**6))


@pytest.mark.parametrize("side", [10_000, 50_000])
def test_too_many_pixels_are_refused_by_the_header(side: int) -> None:
    data = png(side, side, 8, 2, (b"IDAT", b""))
    with pytest.raises(InvalidInput, match=rf"has {side} x {side} pixels; at most 50,000,000 are allowed\.$"):
        decode(data)


def test_an_operator_can_allow_more_pixels_than_pillow_does() -> None:
    data = png(20_000, 10_000, 8, 0, (b"IDAT", b""))
    with pytest.raises(InvalidInput, match="damaged or incomplete"):
        decode(data, limits=image.Limits(10**7, 200_000_000))


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.jpg", encode(Image.new("RGB", (8, 8)), "JPEG"))
    return buffer.getvalue()


NO_IMAGES = {
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    "zip": zip_file(),
    "text": b"hello",
    "zeros": bytes(1000),
    "only a signature": b"\x89PNG\r\n\x1a\n",
    "pdf": b"%PDF-1.7\n",
    "format that is not on the list": encode(Image.new("RGB", (8, 8)), "PPM"),
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(
        InvalidInput, match=r"^The data is not an image; JPEG, PNG, WebP, BMP, GIF and TIFF are read\.$"
    ):
        decode(data)


def test_empty_image_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"^The image is empty\.$"):
        decode(b"")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_image_is_refused(file_format: str) -> None:
    data = encode(landscape(400, 300), file_format)
    with pytest.raises(InvalidInput, match=r"not an image|damaged or incomplete"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_altered_bytes_never_escape_as_another_error(file_format: str) -> None:
    data = bytearray(encode(landscape(40, 30), file_format))
    random = np.random.default_rng(1)
    for _ in range(60):
        altered = data.copy()
        for position in random.integers(0, len(data), 8):
            altered[position] = int(random.integers(256))
        with contextlib.suppress(InvalidInput):
            decode(bytes(altered))


# --- arrays ---


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 4), (3, 8, 8), (1, 8, 8, 3), (0, 8, 3), (8, 0, 3), ()])
def test_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match=r"has the shape \[height, width, 3\], not "):
        image.fit_pixels(np.zeros(shape), STRETCH)


@pytest.mark.parametrize(
    "value",
    [np.nan, np.inf, -1, -0.5, 256, 255.5, "9", b"9", None, True, 1j],
    ids=[
        "nan",
        "infinite",
        "negative",
        "just below",
        "256",
        "just above",
        "text",
        "bytes",
        "null",
        "boolean",
        "complex",
    ],
)
def test_array_of_anything_but_0_to_255_is_refused(value: object) -> None:
    pixels = np.full((8, 8, 3), value)
    with pytest.raises(InvalidInput, match=r"numbers from 0 to 255\.$"):
        image.fit_pixels(pixels, STRETCH)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "uint16"])
@pytest.mark.parametrize("size", [(32, 32), (50, 70)])
def test_numbers_of_any_type_equal_bytes(dtype: str, size: tuple[int, int]) -> None:
    pixels = np.asarray(landscape(*size))
    assert (image.fit_pixels(pixels.astype(dtype), STRETCH) == image.fit_pixels(pixels, STRETCH)).all()


def test_array_equals_the_image_file() -> None:
    picture = landscape(300, 200)
    for spec in (STRETCH, InputSpec(height=32, width=24)):
        assert (image.fit_pixels(np.asarray(picture), spec) == decode(encode(picture, "PNG"), spec)).all()


def test_array_of_the_input_s_size_is_not_touched() -> None:
    pixels = np.asarray(landscape(32, 32))
    assert (image.fit_pixels(pixels, InputSpec(height=32, width=32, crop_fraction=0.5)) == pixels).all()


# --- scaling ---

PIXELS = np.array([[[0, 128, 255], [10, 20, 30]]], np.uint8)


def test_float_input_is_scaled_per_channel() -> None:
    spec = InputSpec(height=1, width=2, scale=(1 / 255, 2.0, 1.0), offset=(0.0, -1.0, -128.0))
    scaled = image.scale(PIXELS, spec)
    assert scaled.dtype == np.float32
    assert scaled[0].tolist() == pytest.approx(np.array([[0, 255, 127], [10 / 255, 39, -98]]), abs=1e-6)


def test_default_scaling_reaches_minus_one_and_one() -> None:
    scaled = image.scale(PIXELS, InputSpec(height=1, width=2))
    assert (scaled[0, 0, 0], scaled[0, 0, 2]) == pytest.approx((-1, 1), abs=1e-6)


def test_byte_input_is_passed_through_or_rounded_within_its_range() -> None:
    raw = InputSpec(height=1, width=2, dtype="uint8", scale=(1.0,) * 3, offset=(0.0,) * 3)
    assert (image.scale(PIXELS, raw) == PIXELS).all()
    int8 = image.scale(PIXELS, raw.model_copy(update={"dtype": "int8", "offset": (-128.0,) * 3}))
    assert int8.dtype == np.int8
    assert int8[0, 0].tolist() == [-128, 0, 127]
    clipped = image.scale(PIXELS, raw.model_copy(update={"scale": (2.0,) * 3, "offset": (-10.4,) * 3}))
    assert clipped.dtype == np.uint8
    assert clipped[0].tolist() == [[0, 246, 255], [10, 30, 50]]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_bgr_input_swaps_the_channels_before_scaling(dtype: Any) -> None:
    spec = InputSpec(height=1, width=2, dtype=dtype, channels="bgr", scale=(1.0,) * 3, offset=(0.0,) * 3)
    scaled = image.scale(PIXELS, spec)
    assert scaled[0].tolist() == [[255, 128, 0], [30, 20, 10]]
    assert scaled.flags.c_contiguous, "runtimes that share memory read it in C order"


# --- photographs, through a real network ---


@pytest.fixture(scope="module")
def network(imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> classifier.Classifier:
    folder = tmp_path_factory.mktemp("mobilenet")
    shutil.copy(imagenet / "tf2_mobilenet_v2_1.0_224_ptq.tflite", folder / "model.tflite")
    shutil.copy(imagenet / "imagenet_labels_1001.txt", folder / "labels.txt")
    return classifier.load(folder, "litert", 1, LIMITS)


PHOTOGRAPHS = {
    "max_tabby.jpg": {"tabby, tabby cat", "tiger cat", "Egyptian cat"},
    "gc3_zebra.jpg": {"zebra"},
    "coral_macaw.jpg": {"macaw"},
    "mlnet_broccoli.jpg": {"broccoli"},
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photograph_keeps_its_class_in_every_encoding(
    network: classifier.Classifier, imagenet: Path, name: str
) -> None:
    original = (imagenet / "photos" / name).read_bytes()
    picture = Image.open(io.BytesIO(original)).convert("RGB")
    exif = Image.Exif()
    exif[image.ORIENTATION_TAG] = 6
    variants = {
        "as it is": original,
        "PNG": encode(picture, "PNG", compress_level=1),
        "WebP": encode(picture, "WEBP", quality=90, method=0),
        "CMYK": encode(picture.convert("CMYK"), "JPEG", quality=92),
        "turned by EXIF": encode(picture.transpose(STORED[6]), "JPEG", quality=92, exif=exif),
    }
    infer = network.session()
    scores = {kind: infer(network.prepare(data)[np.newaxis])[0] for kind, data in variants.items()}
    labels = {kind: classifier.rank(network.bundle.labels, row, top_k=1)["label"] for kind, row in scores.items()}
    assert set(labels.values()) <= PHOTOGRAPHS[name], labels
    assert len(set(labels.values())) == 1, labels
