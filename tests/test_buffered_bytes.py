"""Bodies of many requests at once stay within a limit, and however a request ends, it gives its part back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from conftest import Server, StartServer
from queue_server import IMAGE, Proxy, StubPredictor, answers, photo, running_proxy, slow

LIMIT = 100_000
PART = 60_000
"""Two of them are more than the limit."""
SETTINGS = {"max_buffered_bytes": LIMIT, "retry_after_seconds": 2, "body_timeout_seconds": 3}

Service = Server | Proxy


@pytest.fixture(params=["predictor", "queue-proxy", "queue-proxy, async"])
def service(request, tmp_path) -> Iterator[tuple[Service, dict[str, str]]]:
    """Return each service with the headers that make it read a body."""
    if request.param == "predictor":
        start: StartServer = request.getfixturevalue("start_server")
        with start(threads=1, **SETTINGS) as server:
            yield server, IMAGE
        return
    prefer = {"Prefer": "respond-async"} if "async" in request.param else {}
    database_url = request.getfixturevalue("database_url")
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, **SETTINGS) as proxy,
    ):
        yield proxy, IMAGE | prefer


@contextlib.contextmanager
def unfinished(service: Service, headers: dict[str, str], framing: str) -> Iterator[socket.socket]:
    """Begin a request whose body is not sent to its end."""
    address = urlsplit(service.predict_url)
    lines = [f"POST {address.path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, framing, "", ""]).encode())
        yield connection


def status_line(connection: socket.socket) -> bytes:
    return connection.recv(65536).split(b"\r\n", 1)[0]


def ask(service: Service, headers: dict[str, str], size: int = PART) -> httpx.Response:
    content = photo()
    return httpx.post(service.predict_url, content=content + bytes(size - len(content)), headers=headers, timeout=20)


def wait_until_accepted(service: Service, headers: dict[str, str], seconds: float = 2) -> None:
    deadline = time.monotonic() + seconds
    while (reply := ask(service, headers)).status_code == 503:
        assert time.monotonic() < deadline, "what a request held was not given back"
        time.sleep(0.05)
    assert reply.status_code in {200, 202}, reply.text


def test_a_body_beyond_the_limit_is_refused_before_it_is_read_and_room_is_given_back(service):
    server, headers = service
    announced = f"Content-Length: {PART}"
    with unfinished(server, headers, announced) as first:
        first.sendall(bytes(PART - 1))
        time.sleep(0.2)
        with unfinished(server, headers, announced) as second:
            assert b" 503 " in status_line(second), "answered without a byte of the body"
        reply = ask(server, headers)
        assert (reply.status_code, reply.headers["Retry-After"], list(reply.json())) == (503, "2", ["error"])
        assert ask(server, headers, LIMIT - PART).status_code in {200, 202}, "what has room is served"
        first.sendall(bytes(1))
        assert b" 503 " not in status_line(first)
        wait_until_accepted(server, headers)
    with unfinished(server, headers, announced) as gone:
        gone.sendall(bytes(PART - 1))
        time.sleep(0.2)
        assert ask(server, headers).status_code == 503
    wait_until_accepted(server, headers)
    with unfinished(server, headers, announced) as stalled:
        time.sleep(0.2)
        assert ask(server, headers).status_code in {200, 202}, "who announces and sends nothing keeps nobody out"
        assert b" 408 " in status_line(stalled)
        wait_until_accepted(server, headers)
    assert ask(server, headers, 2 * LIMIT).status_code in {200, 202}, "a body alone may be larger than the limit"


def test_a_body_of_unknown_length_counts_as_it_arrives(service):
    """Synchronous ones stream through the queue-proxy, which holds nothing of them."""
    server, headers = service
    if isinstance(server, Proxy) and "Prefer" not in headers:
        pytest.skip("nothing is held")
    chunk = b"%x\r\n%s\r\n" % (PART, bytes(PART))
    with unfinished(server, headers, "Transfer-Encoding: chunked") as first:
        first.sendall(chunk)
        time.sleep(0.2)
        assert ask(server, headers).status_code == 503
        with unfinished(server, headers, "Transfer-Encoding: chunked") as second:
            second.sendall(chunk)
            assert b" 503 " in status_line(second)
    wait_until_accepted(server, headers)


def test_grpc_and_http_share_the_limit(start_server: StartServer):
    content = photo()
    tensor = tritonclient.grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([content + bytes(PART - len(content))], dtype=np.object_))
    with (
        start_server(threads=1, **SETTINGS) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc) as triton,
    ):
        with unfinished(server, IMAGE, f"Content-Length: {PART}") as first:
            first.sendall(bytes(PART - 1))
            time.sleep(0.2)
            with pytest.raises(InferenceServerException, match="as many bytes of requests"):
                triton.infer(server.model, [tensor])
        wait_until_accepted(server, IMAGE)
        triton.infer(server.model, [tensor])


def test_who_waits_for_a_queued_prediction_holds_no_body(tmp_path, database_url):
    with (
        StubPredictor(slow(3)) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, **SETTINGS) as proxy,
        unfinished(proxy, {**IMAGE, "Prefer": "respond-async, wait=20"}, f"Content-Length: {PART}") as waiting,
    ):
        content = photo()
        waiting.sendall(content + bytes(PART - len(content)))
        wait_until_accepted(proxy, {**IMAGE, "Prefer": "respond-async"})
        waiting.settimeout(0.1)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        waiting.settimeout(20)
        assert b" 200 " in status_line(waiting)
