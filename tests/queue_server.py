"""A queue-proxy in a process of its own, its database, and predictors that fail in one way each."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg

from conftest import free_port, running_role
from pictures import draw, encode

MODEL = "stub"
PHOTO = encode(draw())
IMAGE = {"Content-Type": "image/jpeg"}
ASYNC = {**IMAGE, "Prefer": "respond-async"}
VERSION = "7"
ENDED = {"succeeded", "failed", "cancelled"}

_numbers = itertools.count()


def photo() -> bytes:
    """Return a photograph unlike any other: bytes after a JPEG's end are not looked at."""
    return PHOTO + f"{os.getpid()}-{next(_numbers)}".encode()


@dataclass(frozen=True)
class Proxy:
    """A running queue-proxy."""

    url: str
    database_url: str
    process: subprocess.Popen[bytes]
    log: Path
    model: str = MODEL

    @property
    def predict_url(self) -> str:
        return f"{self.url}/v1/models/{self.model}:predict"

    def submit(self, content: bytes | None = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = photo() if content is None else content
        return httpx.post(self.predict_url, content=body, headers={**ASYNC, **named}, timeout=60)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=60)

    def prediction(self, identifier: str, wait: float = 0) -> dict[str, Any]:
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        return self.get(f"/v1/predictions/{identifier}", **headers).json()

    def queue(self) -> dict[str, Any]:
        return self.get("/v1/queue").json()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds: float = 40) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextlib.contextmanager
def running_proxy(  # noqa: PLR0913 - each is one thing that tests change
    log: Path,
    database_url: str,
    predictor_url: str,
    *,
    port: int | None = None,
    arguments: Iterable[str] = (),
    model: str = MODEL,
    ready: int = 200,
    **settings: object,
) -> Iterator[Proxy]:
    """Start a queue-proxy with MODEL_SERVER_ settings and wait until it is ready."""
    port = port or free_port()
    ours = {
        "database_url": database_url,
        "predictor_url": predictor_url,
        "queue_proxy_host": "127.0.0.1",
        "queue_proxy_port": port,
        "log_format": "text",
        **settings,
    }
    url = f"http://127.0.0.1:{port}"
    with running_role(["queue-proxy", *arguments], ours, log, f"{url}/readyz", ready) as process:
        yield Proxy(url, database_url, process, log, model)


class StubPredictor:
    """Answers V1 predictions as ``behave(number, body)`` says: (status, body), or an exception to drop the caller.

    ``number`` counts the requests from 0. ``bodies`` are what it was sent.
    """

    def __init__(self, behave: Callable[[int, bytes], tuple[int, bytes]], port: int = 0) -> None:
        self.behave = behave
        self.ready = True
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_GET(self) -> None:
                self._answer(200 if stub.ready else 503, b'{"ready": true, "models": ["%s"]}' % MODEL.encode())

            def do_POST(self) -> None:
                body = self._body()
                with stub._lock:
                    number = len(stub.bodies)
                    stub.bodies.append(body)
                    stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                try:
                    status, reply = stub.behave(number, body)
                    self._answer(status, reply)
                except ConnectionError:
                    self.close_connection = True

            def _body(self) -> bytes:
                if "Content-Length" in self.headers:
                    return self.rfile.read(int(self.headers["Content-Length"]))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Content-Type", "application/json")
                self.send_header("Model-Version", VERSION)
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        class Threads(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Threads(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> StubPredictor:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def prediction_reply(label: str = "cat") -> bytes:
    scored = {"label": label, "index": 3, "score": 0.9}
    return json.dumps({"predictions": [{**scored, "top": [scored]}]}).encode()


def answers(label: str = "cat") -> Callable[[int, bytes], tuple[int, bytes]]:
    return lambda _number, _body: (200, prediction_reply(label))


def slow(seconds: float) -> Callable[[int, bytes], tuple[int, bytes]]:
    def behave(_number: int, _body: bytes) -> tuple[int, bytes]:
        time.sleep(seconds)
        return 200, prediction_reply()

    return behave


def submit_all(proxy: Proxy, count: int, parallel: int = 8, *, until: float = 60) -> dict[str, str]:
    """Submit ``count`` photographs, each again and again under its key until it is accepted; return key → id."""
    deadline = time.monotonic() + until
    with httpx.Client(timeout=10) as session, ThreadPoolExecutor(parallel) as pool:

        def submit(_number: int) -> tuple[str, str]:
            key, content = f"key-{next(_numbers)}", photo()
            while True:
                with contextlib.suppress(httpx.TransportError):
                    reply = session.post(proxy.predict_url, content=content, headers={**ASYNC, "Idempotency-Key": key})
                    if reply.status_code == 202:
                        return key, reply.json()["id"]
                    assert reply.status_code == 503, reply.text
                assert time.monotonic() < deadline, "never accepted"
                time.sleep(0.1)

        return dict(pool.map(submit, range(count)))


@contextlib.contextmanager
def constant_load(predict_url: str, threads: int, queued: Container[int]) -> Iterator[list[str]]:
    """Ask without a pause, some of the threads through the queue; yield the versions, or what came instead."""
    seen: list[str] = []
    ended = threading.Event()

    def ask(thread: int) -> None:
        headers = IMAGE | ({"Prefer": "respond-async, wait=30"} if thread in queued else {})
        with httpx.Client(timeout=60) as client:
            while not ended.is_set():
                reply = client.post(predict_url, content=photo(), headers=headers)
                told = reply.json().get("model_version") if thread in queued else reply.headers.get("Model-Version")
                seen.append(str(told) if reply.status_code == 200 else f"{reply.status_code} {reply.text}")

    workers = [threading.Thread(target=ask, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        ended.set()
        for worker in workers:
            worker.join()


def rows(database_url: str, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), arguments or None)
        return cursor.fetchall() if cursor.description else []


def wait_until_all_ended(database_url: str, count: int, seconds: float = 60) -> dict[str, int]:
    """Return how many have which status, once ``count`` have ended."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(psycopg.OperationalError):
            statuses = dict(rows(database_url, "SELECT status, count(*) FROM predictions GROUP BY status"))
            if sum(number for status, number in statuses.items() if status in ENDED) >= count:
                return statuses
            assert time.monotonic() < deadline, f"not ended within {seconds} s: {statuses}"
        assert time.monotonic() < deadline + 10, "the database does not answer"
        time.sleep(0.1)


def assert_each_ended_once(database_url: str, identifiers: Iterable[str]) -> None:
    """Assert that exactly these predictions exist, all succeeded, each written once, nothing left in the queue."""
    wanted = sorted(identifiers)
    found = rows(database_url, "SELECT id::text FROM predictions WHERE status = 'succeeded' ORDER BY id::text")
    assert [identifier for (identifier,) in found] == wanted
    assert rows(database_url, "SELECT count(*) FROM predictions") == [(len(wanted),)]
    assert rows(database_url, "SELECT count(*), count(DISTINCT id) FROM ends") == [(len(wanted), len(wanted))]
    assert rows(database_url, "SELECT count(*) FROM predictions WHERE predictions IS NULL") == [(0,)]
    deadline = time.monotonic() + 5
    while rows(database_url, "SELECT (SELECT count(*) FROM pgqueuer) + (SELECT count(*) FROM outbox)") != [(0,)]:
        assert time.monotonic() < deadline, "entries are left in the queue"
        time.sleep(0.1)
