"""What a stranger may send: each gets a clear 4xx in KServe's shape, nothing leaks, and the next request works."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import time
import zipfile
import zlib

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from conftest import Server
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
    "numbers out of range": (instances([[[256, 0, 0]]]), JSON, 400, "0 to 255"),
    "NaN": (b'{"instances": [[[[NaN, 1, 2]]]]}', JSON, 400, "NaN"),
    "Infinity": (b'{"instances": [[[[-Infinity, 1, 2]]]]}', JSON, 400, "Infinity"),
    "a number of 5,000 digits": (b'{"instances": [' + b"9" * 5000 + b"]}", JSON, 400, "out of range"),
    "duplicate keys": (b'{"instances": [], "instances": [{"b64": "QQ=="}]}', JSON, 400, "twice"),
    "10 MB of [[[[": (b"[" * 10 * MIB, JSON, 400, "nested too deeply"),
    "two million numbers": (b'{"instances": [[' + b"1," * 2_000_000 + b"1]]}", JSON, 413, "values"),
    "a list": (b"[]", JSON, 400, "object"),
    "not UTF-8": (b'{"instances": "\xff"}', JSON, 400, "UTF-8"),
    "wrong content type": (PHOTO, "text/plain", 415, "content type"),
    "form content type": (PHOTO, "application/x-www-form-urlencoded", 415, "content type"),
    "unknown parameter": (instances(GOOD, parameters={"topk": 3}), JSON, 400, "top_k"),
    "unknown field": (instances(GOOD, instance=[]), JSON, 400, "instances"),
    "top_k of 0": (instances(GOOD, parameters={"top_k": 0}), JSON, 400, "top_k"),
    "top_k as text": (instances(GOOD, parameters={"top_k": "3"}), JSON, 400, "top_k"),
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
    "numbers in a BYTES tensor": (infer(data=[1]), 400, "base64 text"),
    "NaN": (infer(datatype="FP32", shape=[1, 1, 1, 3]).replace(b'["', b"[NaN").replace(b'"]', b"]"), 400, ""),
    "another input name": (infer(name="picture"), 400, "one input, 'image'"),
    "unknown output": (infer()[:-1] + b', "outputs": [{"name": "mask"}]}', 400, "no output 'mask'"),
    "unknown parameter": (infer()[:-1] + b', "parameters": {"speed": 9}}', 400, "speed"),
    "id as a number": (infer()[:-1] + b', "id": 7}', 400, "id"),
    "binary size beyond the body": (
        infer(parameters={"binary_data_size": 10**9}).replace(b'"data"', b'"dat"'),
        400,
        "",
    ),
}


def check_error(reply: httpx.Response, status: int, pattern: str) -> None:
    assert reply.status_code == status, reply.text[:300]
    assert list(reply.json()) == ["error"]
    message = reply.json()["error"]
    assert len(message) < 400
    assert re.search(pattern, message), message


def check_still_serving(client: httpx.Client, server: Server) -> None:
    reply = client.post(server.predict_url, content=PHOTO, headers={"Content-Type": "image/jpeg"})
    assert reply.status_code == 200


@pytest.mark.parametrize("name", V1_BODIES)
def test_v1(client, server, name):
    body, content_type, status, pattern = V1_BODIES[name]
    check_error(client.post(server.predict_url, content=body, headers={"Content-Type": content_type}), status, pattern)
    check_still_serving(client, server)


@pytest.mark.parametrize("name", V2_BODIES)
def test_v2(client, server, name):
    body, status, pattern = V2_BODIES[name]
    check_error(client.post(server.infer_url, content=body, headers={"Content-Type": JSON}), status, pattern)
    check_still_serving(client, server)


def binary_request(element: bytes, json_length: int | None = None, size: int | None = None) -> tuple[bytes, dict]:
    parameters = {"binary_data_size": len(element) if size is None else size}
    document = json.dumps({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": parameters}]})
    length = len(document) if json_length is None else json_length
    return document.encode() + element, {"Inference-Header-Content-Length": str(length)}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        binary_request(struct.pack("<I", 2**31) + PHOTO),
        binary_request(b"\x01\x00"),
        binary_request(struct.pack("<I", len(PHOTO)) + PHOTO, json_length=10**9),
        binary_request(struct.pack("<I", len(PHOTO)) + PHOTO, json_length=-1),
        binary_request(struct.pack("<I", len(PHOTO)) + PHOTO, json_length=5),
        binary_request(struct.pack("<I", len(PHOTO)) + PHOTO, size=10**9),
        binary_request(struct.pack("<I", len(PHOTO)) + PHOTO, size=4),
        binary_request(struct.pack("<I", 5) + b"hello"),
    ],
)
def test_v2_binary(client, server, body, headers):
    check_error(client.post(server.infer_url, content=body, headers=headers), 400, "")
    check_still_serving(client, server)


@pytest.mark.parametrize(
    ("shape", "datatype", "values", "pattern"),
    [
        ([1], "BYTES", np.array([b"not an image"], dtype=np.object_), "not an image"),
        ([1, 2, 2, 4], "UINT8", np.zeros((1, 2, 2, 4), np.uint8), "shape"),
        ([1, 1, 1, 3], "FP32", np.full((1, 1, 1, 3), np.nan, np.float32), "0 to 255"),
        ([3], "INT64", np.zeros(3, np.int64), "BYTES, UINT8 or FP32"),
    ],
)
def test_grpc(server, shape, datatype, values, pattern):
    tensor = tritonclient.grpc.InferInput("image", shape, datatype)
    tensor.set_data_from_numpy(values)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as triton:
        with pytest.raises(tritonclient.grpc.InferenceServerException, match=pattern) as caught:
            triton.infer(server.model, [tensor])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(tritonclient.grpc.InferenceServerException) as caught:
            triton.infer("other", [tensor])
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_a_body_without_length_is_cut_off_at_the_limit(client, server):
    """Chunked transfer announces no size: the limit holds while it streams, not after."""
    parts = (b"\xff" * MIB for _ in range(200))
    check_error(client.post(server.predict_url, content=parts, headers={"Content-Type": "image/jpeg"}), 413, "allowed")
    check_still_serving(client, server)


def test_a_body_that_stalls_is_refused_in_time(client, start_server):
    with start_server(body_timeout_seconds=0.5) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = f"POST /v1/models/{server.model}:predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            connection.sendall(head.encode() + b"Content-Length: 1000\r\n\r\n\xff\xd8")
            begun = time.monotonic()
            reply = connection.recv(4096)
        assert b" 408 " in reply.split(b"\r\n", 1)[0]
        assert time.monotonic() - begun < 5
        check_still_serving(client, server)


def test_more_work_than_the_queue_holds_is_refused_with_retry_after(client, start_server):
    with start_server(queue_size=4, workers=1, retry_after_seconds=3) as server:
        reply = client.post(server.predict_url, content=instances(*[GOOD] * 40), headers={"Content-Type": JSON})
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "3")
        assert "queue is full" in reply.json()["error"]
        check_still_serving(client, server)
