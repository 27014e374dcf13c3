"""What a stranger may send: bodies with the status and the words that refuse them. For the tests and for chaos."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib

from pictures import b64, draw, encode

PHOTO = encode(draw())
JSON = "application/json"
MIB = 2**20


def huge_png_header() -> bytes:
    """Return a PNG that promises 50,000 x 50,000 pixels and holds next to none."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 99))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zip_archive() -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr("photo.jpg", PHOTO)
    return output.getvalue()


def instances(*items: object, **more: object) -> bytes:
    return json.dumps({"instances": items, **more}).encode()


def infer(**tensor: object) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(PHOTO)], **tensor}]}
    ).encode()


GOOD = {"b64": b64(PHOTO)}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'

V1_BODIES = {
    "empty body": (b"", JSON, 400, "not JSON"),
    "empty image": (b"", "image/jpeg", 400, "empty"),
    "not an image": (b"hello " * 100, "image/jpeg", 400, "not an image"),
    "truncated JPEG": (PHOTO[: len(PHOTO) // 2], "image/jpeg", 400, "damaged or incomplete"),
    "SVG": (SVG, "image/svg+xml", 400, "not an image"),
    "ZIP named .jpg": (zip_archive(), "image/jpeg", 400, "not an image"),
    "50,000 x 50,000 PNG header": (huge_png_header(), "image/png", 400, "pixels"),
    "30 MB body": (b"\xff" * 30 * MIB, "image/jpeg", 413, "at most"),
    "13 MB image": (b"\xff" * 13 * MIB, "image/jpeg", 413, "at most"),
    "truncated base64": (instances({"b64": b64(PHOTO)[:-3]}), JSON, 400, r"instances\[0\].*base64"),
    "1,000 instances": (
        instances(*[GOOD] * 1000).replace(b64(PHOTO).encode(), b"QQ=="),
        JSON,
        400,
        "at most 64",
    ),
    "no instances": (b"{}", JSON, 400, "instances"),
    "empty instances": (instances(), JSON, 400, "at least one"),
    "array too shallow": (instances([[1, 2, 3], [4, 5, 6]]), JSON, 400, "shape"),
    "array too deep": (instances([[[[1, 2, 3]]]]), JSON, 400, "shape"),
    "ragged array": (instances([[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]]), JSON, 400, "differ in length"),
    "strings for numbers": (instances([[["1", "2", "3"]]]), JSON, 400, "numbers"),
    "a long text among many short ones": (
        instances([[["a" * 200_000, *[""] * 100_000]]]),  # as a NumPy array, 80 GB
        JSON,
        400,
        "numbers",
    ),
    "numbers out of range": (instances([[[256, 0, 0]]]), JSON, 400, "0 to 255"),
    "NaN": (b'{"instances": [[[[NaN, 1, 2]]]]}', JSON, 400, "NaN"),
    "Infinity": (b'{"instances": [[[[-Infinity, 1, 2]]]]}', JSON, 400, "Infinity"),
    "a number of 5,000 digits": (b'{"instances": [' + b"9" * 5000 + b"]}", JSON, 400, "out of range"),
    "a key that is twice among 100,000": (
        b"{%s}" % b",".join(b'"%d":0' % (number % 99_999) for number in range(100_000)),
        JSON,
        400,
        "twice",
    ),
    "duplicate keys": (b'{"instances": [], "instances": [{"b64": "QQ=="}]}', JSON, 400, "twice"),
    "10 MB of [[[[": (b"[" * 10 * MIB, JSON, 400, "nested too deeply"),
    "two million numbers": (b'{"instances": [[' + b"1," * 2_000_000 + b"1]]}", JSON, 413, "values"),
    "a list": (b"[]", JSON, 400, "object"),
    "not UTF-8": (b'{"instances": "\xff"}', JSON, 400, "UTF-8"),
    "wrong content type": (PHOTO, "text/plain", 415, "content type"),
    "unknown parameter": (instances(GOOD, parameters={"topk": 3}), JSON, 400, "top_k"),
    "unknown field": (instances(GOOD, instance=[]), JSON, 400, "instances"),
    "top_k of 0": (instances(GOOD, parameters={"top_k": 0}), JSON, 400, "top_k"),
    "top_k as text": (instances(GOOD, parameters={"top_k": "3"}), JSON, 400, "top_k"),
    "top_k beyond all classes": (instances(GOOD, parameters={"top_k": 1001}), JSON, 400, "1 to 1,000"),
    "top_k beyond 64 bit": (instances(GOOD, parameters={"top_k": 2**64}), JSON, 400, "out of range"),
    "parameters as a list": (instances(GOOD, parameters=[]), JSON, 400, "parameters"),
    "a list for base64": (instances({"b64": ["QQ=="]}), JSON, 400, r"instances\[0\]"),
    "half a character": (instances(GOOD, signature_name="\ud800"), JSON, 400, "surrogate.* at signature_name"),
    "half a character as a key": (instances(GOOD, **{"\ud800": 1}), JSON, 400, "surrogate"),
    "NUL": (instances(GOOD, signature_name="\0"), JSON, 400, "NUL.* at signature_name"),
    "1e999": (b'{"instances": [[[[1e999, 1, 2]]]]}', JSON, 400, "out of range"),
    "65 levels": (b'{"instances": %s}' % (b"[" * 64 + b"]" * 64), JSON, 400, "nested too deeply"),
    "an unknown field of 100,000 characters": (instances(GOOD, **{"x" * 100_000: 1}), JSON, 400, "Unknown field"),
    "a bad one among good ones": (instances(GOOD, {"b64": "QQ=="}, GOOD), JSON, 400, r"instances\[1\]"),
}

V2_BODIES = {
    "malformed JSON": (b'{"inputs": [', 400, "not JSON"),
    "no inputs": (b"{}", 400, "inputs"),
    "wrong datatype": (
        infer(datatype="INT64", shape=[1, 1, 1, 3], data=[1, 2, 3]),
        400,
        "BYTES, UINT8 or FP32",
    ),
    "wrong shape": (infer(datatype="UINT8", shape=[1, 2, 2, 4], data=[1] * 16), 400, "shape"),
    "shape without images": (infer(shape=[0], data=[]), 400, "shape"),
    "fewer elements than the shape": (
        infer(datatype="FP32", shape=[1, 2, 2, 3], data=[1.0] * 11),
        400,
        "elements",
    ),
    "strings in a UINT8 tensor": (
        infer(datatype="UINT8", shape=[1, 1, 1, 3], data=["1", "2", "3"]),
        400,
        "numbers",
    ),
    "a long text in a UINT8 tensor": (
        infer(datatype="UINT8", shape=[1, 1, 1, 3], data=["a" * 200_000, *[""] * 100_000]),
        400,
        "numbers",
    ),
    "a shape beyond all bounds": (infer(datatype="UINT8", shape=[10**4000, 1, 1, 3], data=[1]), 400, "shape"),
    "half a character as id": (infer()[:-1] + b', "id": "\\ud800"}', 400, "id"),
    "numbers in a BYTES tensor": (infer(data=[1]), 400, "base64 text"),
    "NaN": (infer(datatype="FP32", shape=[1, 1, 1, 3]).replace(b'["', b"[NaN").replace(b'"]', b"]"), 400, ""),
    "another input name": (infer(name="picture"), 400, "one input, 'image'"),
    "the same output twice": (infer()[:-1] + b', "outputs": [{"name": "scores"}, {"name": "scores"}]}', 400, "twice"),
    "40,000 outputs": (infer()[:-1] + b', "outputs": [%s]}' % b", ".join([b'{"name": "scores"}'] * 40_000), 400, "16"),
    "a datatype in a list": (infer(datatype=["BYTES"]), 400, r"inputs\[0\].datatype.* a string"),
    "a shape of true": (infer(shape=[True]), 400, r"inputs\[0\].shape"),
    "a shape of 400,000 sides": (infer(shape=[1] * 400_000), 400, r"inputs\[0\].shape.* at most 8"),
    "another name of 100,000 characters": (infer(name="x" * 100_000), 400, "one input, 'image'"),
    "unknown output": (infer()[:-1] + b', "outputs": [{"name": "mask"}]}', 400, "no output 'mask'"),
    "unknown parameter": (infer()[:-1] + b', "parameters": {"speed": 9}}', 400, "speed"),
    "id as a number": (infer()[:-1] + b', "id": 7}', 400, "id"),
    "binary size beyond the body": (
        infer(parameters={"binary_data_size": 10**9}).replace(b'"data"', b'"dat"'),
        400,
        "",
    ),
}
