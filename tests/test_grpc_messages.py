"""Whatever bytes come over gRPC, the caller gets a status that says whose fault it is, and the log gets no stack."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

import grpc
import pytest
from tritonclient.grpc import service_pb2 as messages

from conftest import Server

SERVICE = "/inference.GRPCInferenceService"
TENSOR = messages.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
REQUEST = messages.ModelInferRequest(
    model_name="cifar10", inputs=[TENSOR], raw_input_contents=[b"\x04\0\0\0abcd"]
).SerializeToString()
ANOTHER = messages.ServerLiveResponse(live=True).SerializeToString()
NO_MESSAGES = {
    "not protobuf": b"hello",
    "cut off": REQUEST[:-3],
    "wire type that there is not": b"\xff" * 20,
    "field 0": b"\0",
    "text that is not UTF-8": b"\x0a\x02\xff\xfe",
    "groups without an end": b"\x0b" * 200,
    "varint without an end": b"\x08" + b"\xff" * 11,
    "length beyond the end": b"\x0a\xff\xff\xff\xff\x07",
    "random": random.Random(1).randbytes(500),
}
METHODS = ["ModelInfer", "ModelReady", "ModelMetadata", "ServerLive", "ServerMetadata", "RepositoryModelLoad"]


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    """Return a channel; what the log has got from the test holds no stack."""
    before = len(server.log.read_bytes())
    with grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)]) as made:
        yield made
    written = server.log.read_bytes()[before:].decode()
    assert "Traceback" not in written
    assert '"level": "error"' not in written


def status(channel: grpc.Channel, method: str, request: bytes) -> grpc.StatusCode:
    try:
        channel.unary_unary(method)(request, timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_the_callers_fault(channel: grpc.Channel, method: str) -> None:
    wanted = dict.fromkeys(NO_MESSAGES, grpc.StatusCode.INVALID_ARGUMENT)
    if method.startswith("Server"):
        wanted["text that is not UTF-8"] = grpc.StatusCode.OK  # of a field that these do not have
    assert {name: status(channel, f"{SERVICE}/{method}", data) for name, data in NO_MESSAGES.items()} == wanted


@pytest.mark.parametrize(
    ("method", "request_", "wanted"),
    [
        (f"{SERVICE}/ModelInfer", b"", grpc.StatusCode.NOT_FOUND),
        (
            f"{SERVICE}/ModelInfer",
            messages.ServerLiveResponse(live=True).SerializeToString(),
            grpc.StatusCode.NOT_FOUND,
        ),
        (f"{SERVICE}/ModelInfer", bytes(20_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (f"{SERVICE}/ModelStream", REQUEST, grpc.StatusCode.UNIMPLEMENTED),
        ("/another.Service/ModelInfer", REQUEST, grpc.StatusCode.UNIMPLEMENTED),
        ("/", b"\xff", grpc.StatusCode.UNIMPLEMENTED),
        (f"{SERVICE}/ServerLive", b"", grpc.StatusCode.OK),
    ],
)
def test_message_or_method_of_another_kind(
    channel: grpc.Channel, method: str, request_: bytes, wanted: grpc.StatusCode
) -> None:
    assert status(channel, method, request_) is wanted


def test_a_message_with_any_byte_changed_is_never_our_fault(channel: grpc.Channel) -> None:
    chance = random.Random(7)
    seen = set()
    for _ in range(300):
        changed = bytearray(REQUEST)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        seen.add(status(channel, f"{SERVICE}/ModelInfer", bytes(changed)))
    assert seen <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"unheard-of", b""])
def test_what_cannot_be_decompressed_ends_the_call_and_no_more(
    channel: grpc.Channel, server: Server, coding: bytes
) -> None:
    reply = raw_call(server, b"\1\0\0\0\5hello", coding)
    assert b"grpc-status" in reply
    assert status(channel, f"{SERVICE}/ServerLive", b"") is grpc.StatusCode.OK


def raw_call(server: Server, body: bytes, coding: bytes) -> bytes:
    """Send one call as HTTP/2 frames (RFC 9113, header fields as literals), and return what comes until its status."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": f"{SERVICE}/ModelInfer".encode(),
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        **({b"grpc-encoding": coding} if coding else {}),
    }
    block = b"".join(b"\0" + bytes([len(one)]) + one + bytes([len(two)]) + two for one, two in fields.items())
    host, _, port = server.grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block))
        connection.sendall(frame(0, 1, 1, body))
        reply = b""
        while b"grpc-status" not in reply and (more := connection.recv(65536)):
            reply += more
        return reply


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + content
