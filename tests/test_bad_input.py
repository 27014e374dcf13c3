"""What a stranger may send: each gets a clear 4xx in KServe's shape, nothing leaks, and the next request works."""

from __future__ import annotations

import json
import re
import socket
import struct
import time

import httpx
import numpy as np
import pytest
import tritonclient.grpc

from bad_inputs import GOOD, JSON, MIB, PHOTO, V1_BODIES, V2_BODIES, instances
from conftest import Server


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
