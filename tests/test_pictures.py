"""Every kind of picture that people upload gets the class of the same picture as plain JPEG or PNG."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pictures import draw, encode

UPRIGHT = draw()


def rotated_exif() -> bytes:
    """Return the picture stored on its side, with the EXIF tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(UPRIGHT.transpose(Image.Transpose.ROTATE_90), quality=95, exif=exif)


def transparent_palette() -> bytes:
    picture = UPRIGHT.quantize(255)
    return encode(picture, "PNG", transparency=255)


def animated(kind: str) -> bytes:
    others = [Image.new("RGB", UPRIGHT.size, colour) for colour in ("black", "white")]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(UPRIGHT, kind, save_all=True, append_images=others, **options)


def grey_16_bit() -> bytes:
    grey = np.asarray(UPRIGHT.convert("L")).astype(np.uint16) * 257
    return encode(Image.fromarray(grey), "PNG")


SAME = {
    "WebP": lambda: encode(UPRIGHT, "WEBP", quality=95),
    "BMP": lambda: encode(UPRIGHT, "BMP"),
    "TIFF": lambda: encode(UPRIGHT, "TIFF"),
    "CMYK JPEG": lambda: encode(UPRIGHT.convert("CMYK"), quality=95),
    "palette PNG with transparency": transparent_palette,
    "RGBA PNG": lambda: encode(UPRIGHT.convert("RGBA"), "PNG"),
    "EXIF-rotated JPEG": rotated_exif,
    "animated GIF": lambda: animated("GIF"),
    "animated WebP": lambda: animated("WEBP"),
    "4000 x 3000": lambda: encode(draw(4000, 3000)),
}


def classify(client, server, data: bytes) -> dict:
    reply = client.post(server.predict_url, content=data, headers={"Content-Type": "image/jpeg"})
    assert reply.status_code == 200, reply.text
    return reply.json()["predictions"][0]


@pytest.mark.parametrize("kind", SAME)
def test_it_is_classified_as_the_plain_picture_is(client, server, kind):
    plain = classify(client, server, encode(UPRIGHT, "PNG"))
    other = classify(client, server, SAME[kind]())
    assert other["label"] == plain["label"]
    assert other["score"] == pytest.approx(plain["score"], abs=0.15)


def test_16_bit_grey_is_classified_as_8_bit_grey_is(client, server):
    plain = classify(client, server, encode(UPRIGHT.convert("L"), "PNG"))
    assert classify(client, server, grey_16_bit())["score"] == pytest.approx(plain["score"], abs=0.02)


def test_one_pixel_is_a_picture(client, server):
    assert 0 < classify(client, server, encode(draw(1, 1), "PNG"))["score"] <= 1
