"""Connections: slow heads, idle ones, readers that take nothing, callers who leave: each costs no more than it may."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import httpx
import psutil
import pytest

from accounts_server import running_feedback
from conftest import StartServer, cloned_database, environment_with, free_port, wait_until_answers
from queue_server import IMAGE, PHOTO, StubPredictor, answers, photo, prediction_reply, rows, running_proxy, slow
from raw_http import all_statuses, connected, head, read_reply, seconds_until_closed

MIB = 2**20
HEAD_SECONDS, IDLE_SECONDS, UNREAD_SECONDS = 1, 2, 2
SETTINGS = {
    "head_timeout_seconds": HEAD_SECONDS,
    "idle_timeout_seconds": IDLE_SECONDS,
    "unread_timeout_seconds": UNREAD_SECONDS,
    "body_timeout_seconds": 3,
}
SLACK = 4
"""Seconds: connections are looked at once a second, and a test machine may be busy."""


@pytest.fixture(scope="module")
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


@pytest.fixture(scope="module", params=["predictor", "queue-proxy", "feedback"])
def url(request, start_server: StartServer, stub, postgres, tmp_path_factory) -> Iterator[str]:
    """Return each service, impatient."""
    log = tmp_path_factory.mktemp("impatient") / "log"
    if request.param == "predictor":
        with start_server(workers=1, **SETTINGS) as server:
            yield server.url
        return
    with cloned_database(postgres) as database_url:
        if request.param == "queue-proxy":
            with running_proxy(log, database_url, stub.url, **SETTINGS) as proxy:
                yield proxy.url
        else:
            with running_feedback(log, database_url, **SETTINGS) as (feedback_url, _):
                yield feedback_url


LARGE = b"a" * 300_000
HEADS = {
    "one long value": b"GET /none HTTP/1.1\r\nX: " + LARGE,
    "one long name": b"GET /none HTTP/1.1\r\n" + LARGE,
    "a long target": b"GET /" + LARGE,
    "many fields": b"GET /none HTTP/1.1\r\n" + b"X: y\r\n" * 110,
    "many lines before the request": b"\r\n" * len(LARGE),
    "long trailers": head("POST", "/none", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\nX: " + LARGE * 3,
    "many trailers": head("POST", "/none", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 110,
    "a long chunk extension": head("POST", "/none", "Transfer-Encoding: chunked") + b"2;" + LARGE * 3,
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_without_bound_is_refused_and_ends_its_connection(url: str, name: str):
    with connected(url) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(HEADS[name])
        statuses, is_closed = all_statuses(connection, 1)
        # A route that needs no body may have answered before the trailers came.
        assert statuses in ([431], [404])
        assert is_closed


def test_a_head_in_single_bytes_gains_no_time(url: str):
    with connected(url, 0.02) as connection:
        begun, received = time.monotonic(), b""
        for byte in itertools.chain(b"GET / HTTP/1.1\r\nX: ", itertools.repeat(ord("y"), 1000)):
            connection.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                received += connection.recv(4096)
            if received:
                break
        assert b" 408 " in received
        assert time.monotonic() - begun < HEAD_SECONDS + SLACK


@pytest.mark.parametrize("sent", [b"GET / HT", b"GET /none HTTP/1.1\r\nHost: x\r\nX: "], ids=["line", "fields"])
def test_half_a_head_is_refused_in_time(url: str, sent: bytes):
    with connected(url) as connection:
        connection.sendall(sent)
        begun = time.monotonic()
        status, fields, content = read_reply(connection)
        assert (status, fields["connection"], list(json.loads(content))) == (408, "close", ["error"])
        assert HEAD_SECONDS - 0.1 < time.monotonic() - begun < HEAD_SECONDS + SLACK


@pytest.mark.parametrize("sent", [b"", b"\r\n", head("GET", "/none")], ids=["nothing", "an empty line", "a request"])
def test_an_idle_connection_is_closed_in_time(url: str, sent: bytes):
    with connected(url) as connection:
        connection.sendall(sent)
        assert IDLE_SECONDS - 0.1 < seconds_until_closed(connection) < IDLE_SECONDS + SLACK


def test_a_connection_that_is_used_stays(url: str):
    with connected(url) as connection:
        for _ in range(2 * IDLE_SECONDS):
            connection.sendall(head("GET", "/none"))
            assert read_reply(connection)[0] == 404
            time.sleep(0.6)


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))


def test_idle_connections_make_room_where_descriptors_run_short(stub, tmp_path, database_url):
    """The oldest first: who has been connected for long and asks nothing is no reason to turn others away."""
    port = free_port()
    ours = {"database_url": database_url, "predictor_url": stub.url, "queue_proxy_host": "127.0.0.1"}
    environment = environment_with({**ours, "queue_proxy_port": port})
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "model_server", "queue-proxy"],
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=_few_descriptors,  # noqa: PLW1509 - it does nothing else
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_answers(f"{address}/readyz", process, log)
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(connected(address)) for _ in range(200)]
            for path in ("/readyz", "/v1/models", "/healthz"):
                assert httpx.get(address + path, timeout=10).status_code == 200
            content = photo()
            predict = f"{address}/v1/models/stub:predict"
            assert httpx.post(predict, content=content, headers=IMAGE, timeout=10).status_code == 200
            crowd[0].settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert crowd[0].recv(1) == b""
    finally:
        process.terminate()
        process.wait(40)


def memory(process: subprocess.Popen[bytes]) -> float:
    """Return MiB."""
    return psutil.Process(process.pid).memory_info().rss / MIB


def test_pictures_that_nobody_reads_are_not_held_and_their_readers_are_cut_off(tmp_path, database_url):
    picture = photo() + bytes(11 * MIB)
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, unread_timeout_seconds=4) as proxy,
        contextlib.ExitStack() as stack,
    ):
        identifier = proxy.submit(picture).json()["id"]
        assert proxy.prediction(identifier, wait=20)["status"] == "succeeded"
        path = f"/v1/predictions/{identifier}/image"
        assert proxy.get(path).content == picture
        before = memory(proxy.process)
        readers = [stack.enter_context(connected(proxy.url)) for _ in range(60)]
        for reader in readers:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.sendall(head("GET", path))
        most = before
        end = time.monotonic() + 3
        while time.monotonic() < end:
            most = max(most, memory(proxy.process))
            time.sleep(0.1)
        assert most - before < 100, "the picture is held for each of its readers"
        assert proxy.get("/healthz").status_code == 200
        time.sleep(4 + SLACK)
        taken = 0
        with contextlib.suppress(ConnectionError):
            while part := readers[0].recv(MIB):
                taken += len(part)
        assert taken < len(picture), "a reader that took nothing was waited for"


def test_bytes_of_replies_count_and_more_are_refused(tmp_path, database_url):
    picture = photo() + bytes(6 * MIB)
    settings = {"max_buffered_bytes": 8 * MIB, "unread_timeout_seconds": 60}
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, **settings) as proxy,
        contextlib.ExitStack() as stack,
    ):
        identifier = proxy.submit(picture).json()["id"]
        assert proxy.prediction(identifier, wait=20)["status"] == "succeeded"
        path = f"/v1/predictions/{identifier}/image"
        for _ in range(60):
            reader = stack.enter_context(connected(proxy.url))
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.sendall(head("GET", path))
        time.sleep(2)
        refused = proxy.get(path)
        assert (refused.status_code, list(refused.json())) == (503, ["error"])
        assert refused.headers["Retry-After"]


def test_a_slot_is_taken_when_the_body_is_there(tmp_path, database_url):
    limits = {"sync_in_flight": 2, "sync_waiting": 0, "body_timeout_seconds": 20}
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, **limits) as proxy,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(64):
            idler = stack.enter_context(connected(proxy.url))
            fields = ["Content-Type: image/jpeg", "Content-Length: 2000000"]
            idler.sendall(head("POST", f"/v1/models/{proxy.model}:predict", *fields) + b"\xff\xd8\xff\xe0")
        assert httpx.post(proxy.predict_url, content=photo(), headers=IMAGE, timeout=10).status_code == 200


class Peculiar(StubPredictor):
    """A predictor that answers with bytes of the test's choice."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(answers())
        handler: type[BaseHTTPRequestHandler] = self._server.RequestHandlerClass  # type: ignore[assignment]

        class Odd(handler):  # type: ignore[misc, valid-type]
            def _answer(self, *_: object) -> None:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(reply)
                    self.wfile.flush()
                self.close_connection = True

        self._server.RequestHandlerClass = Odd


def reply(status: str = "200 OK", content: bytes = b"", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + content


GOOD = prediction_reply()
ODD_REPLIES = {
    "status 600": reply("600 What", GOOD),
    "status 99": reply("099 What", GOOD),
    "status 999": reply("999 What", GOOD),
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "no HTTP": b"hello\r\n\r\n",
    "a version of 9,000 characters": reply("200 OK", GOOD, "Model-Version: " + "9" * 9000),
    "more than the limit": reply("200 OK", bytes(300_000)),
    "more than the limit, unannounced": b"HTTP/1.1 200 OK\r\n\r\n" + bytes(300_000),
    "more than it has": b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nx",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + GOOD,
}


@pytest.mark.parametrize("name", ODD_REPLIES)
def test_an_odd_reply_of_a_predictor_is_a_bad_gateway(tmp_path, database_url, name):
    with (
        Peculiar(ODD_REPLIES[name]) as predictor,
        running_proxy(
            tmp_path / "log", database_url, predictor.url, max_reply_bytes=200_000, arguments=["--no-dispatch"]
        ) as proxy,
    ):
        for ask in (
            lambda: httpx.post(proxy.predict_url, content=photo(), headers=IMAGE, timeout=20),
            lambda: httpx.get(f"{proxy.url}/v2/models/stub", timeout=20),
        ):
            answer = ask()
            assert (answer.status_code, list(answer.json())) == (502, ["error"])
        assert proxy.get("/healthz").status_code == 200
        assert "Traceback" not in proxy.log.read_text()


def test_a_large_reply_is_not_read_to_its_end(tmp_path, database_url):
    def flood(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            connection.recv(65536)
            with contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for _ in range(400):
                    connection.sendall(bytes(MIB))
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=flood, args=[listener], daemon=True).start()
        predictor = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with running_proxy(tmp_path / "log", database_url, predictor, arguments=["--no-dispatch"]) as proxy:
            before = memory(proxy.process)
            assert httpx.post(proxy.predict_url, content=photo(), headers=IMAGE, timeout=30).status_code == 502
            assert memory(proxy.process) - before < 120


def test_what_a_caller_left_is_not_done_for_them_any_more(tmp_path, database_url):
    """The connection to the predictor is closed, whose own work for it ends with it."""
    left = threading.Event()

    def wait_for_the_end(connection: socket.socket) -> None:
        is_prediction = connection.recv(65536).startswith(b"POST")
        while connection.recv(MIB):
            pass
        if is_prediction:
            left.set()

    def listen(listener: socket.socket) -> None:
        while True:
            threading.Thread(target=wait_for_the_end, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, args=[listener], daemon=True).start()
        predictor = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with running_proxy(tmp_path / "log", database_url, predictor, arguments=["--no-dispatch"]) as proxy:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(proxy.predict_url, content=PHOTO, headers=IMAGE, timeout=1)
            assert left.wait(5)
            deadline = time.monotonic() + 5
            while " 499 " not in proxy.log.read_text() and "status=499" not in proxy.log.read_text():
                assert time.monotonic() < deadline, "the request was not ended"
                time.sleep(0.1)
            assert "Traceback" not in proxy.log.read_text()


def test_large_queued_pictures_are_not_all_in_memory_at_once(tmp_path, database_url):
    with (
        StubPredictor(slow(0.5)) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, arguments=["--no-dispatch"]) as front,
    ):
        accepted = [front.submit(photo() + bytes(11 * MIB)).json()["id"] for _ in range(24)]
        with running_proxy(tmp_path / "other", database_url, stub.url) as proxy:
            before = most = memory(proxy.process)
            while proxy.queue()["queued"] + proxy.queue()["running"]:
                most = max(most, memory(proxy.process))
                time.sleep(0.05)
            assert most - before < 180, f"{most - before:.0f} MiB"
            assert all(proxy.prediction(one)["status"] == "succeeded" for one in accepted)


def test_a_caller_who_leaves_with_another_request_behind_is_noticed(tmp_path, database_url):
    """Reading goes on behind a request that waits for the predictor, so that the end of the connection is seen."""
    with (
        StubPredictor(slow(30)) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, sync_in_flight=2, sync_waiting=0) as proxy,
    ):
        for _ in range(2):
            with connected(proxy.url) as connection:
                content = photo()
                fields = ["Content-Type: image/jpeg", f"Content-Length: {len(content)}"]
                connection.sendall(head("POST", f"/v1/models/{proxy.model}:predict", *fields) + content)
                time.sleep(0.3)
                connection.sendall(head("GET", "/healthz"))
        stub.behave = answers()
        deadline = time.monotonic() + 10
        while httpx.post(proxy.predict_url, content=photo(), headers=IMAGE, timeout=20).status_code == 503:
            assert time.monotonic() < deadline, "who has left still holds a slot"
            time.sleep(0.1)


def test_a_reader_who_takes_some_now_and_then_gets_all(tmp_path, database_url):
    picture = photo() + bytes(3 * MIB)
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, unread_timeout_seconds=2) as proxy,
        connected(proxy.url) as reader,
    ):
        identifier = proxy.submit(picture).json()["id"]
        assert proxy.prediction(identifier, wait=20)["status"] == "succeeded"
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader.sendall(head("GET", f"/v1/predictions/{identifier}/image"))
        taken = 0
        while taken < len(picture):
            part = reader.recv(256 * 1024)
            assert part, f"cut off after {taken:,} bytes"
            taken += len(part)
            time.sleep(0.1)


def test_who_leaves_before_the_reply_has_submitted_all_the_same_and_pays_for_it(tmp_path, database_url):
    with (
        StubPredictor(answers()) as stub,
        running_proxy(tmp_path / "log", database_url, stub.url, images_per_day=1000) as proxy,
    ):
        for delay in (0.0, 0.001, 0.002, 0.005) * 10:
            with connected(proxy.url) as connection:
                content = photo()
                fields = ["Content-Type: image/jpeg", "Prefer: respond-async", f"Content-Length: {len(content)}"]
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(head("POST", f"/v1/models/{proxy.model}:predict", *fields) + content)
                time.sleep(delay)
        time.sleep(1)
        ((recorded,),) = rows(database_url, "SELECT count(*) FROM predictions")
        reply = proxy.submit()
        left = int(re.search(r'"images";r=(\d+)', reply.headers["RateLimit"])[1])
        assert left == 1000 - recorded
