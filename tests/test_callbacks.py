"""Callbacks: signed, tried again, only to listed hosts, never to a private address by the back door."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from standardwebhooks import Webhook

from model_server.queue_proxy.callback_address import GuardedResolver, is_public
from model_server.queue_proxy.callbacks import FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS
from model_server.queue_proxy.delivery import AT_ONCE_PER_HOST, Patience
from queue_server import Proxy, StubPredictor, answers, rows, running_proxy, slow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SETTINGS = {"callback_hosts": '["127.0.0.1", "hooks.example.com"]', "callback_secret": SECRET}


class Receiver:
    """Keeps what it was sent; ``status(number)`` is its answer."""

    def __init__(self, status: Callable[[int], int]) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                number = len(receiver.received)
                receiver.received.append((dict(self.headers.items()), body))
                self.send_response(status(number))
                self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, count: int, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"{len(self.received)} of {count} callbacks have come"
            time.sleep(0.02)


@pytest.fixture
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


@pytest.fixture
def proxy(tmp_path, database_url, stub) -> Iterator[Proxy]:
    with running_proxy(tmp_path / "log", database_url, stub.url, **SETTINGS) as running:
        yield running


def test_a_finished_prediction_is_told_with_a_valid_signature(proxy):
    with Receiver(lambda _number: 204) as receiver:
        resource = proxy.submit(Callback_Url=receiver.url).json()
        receiver.wait(1)
        headers, body = receiver.received[0]
        told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "prediction.succeeded"
    assert told["data"] == proxy.prediction(resource["id"])
    assert {name.lower(): value for name, value in headers.items()}["webhook-id"] == resource["id"]
    time.sleep(0.3)
    assert rows(proxy.database_url, "SELECT count(*) FROM callbacks") == [(0,)]


def test_failures_cancellations_followers_and_reused_results_are_told_too(proxy, stub):
    from queue_server import photo

    stub.behave = slow(0.5)
    content = photo()
    with Receiver(lambda _number: 200) as receiver:
        for _ in range(2):
            proxy.submit(content, Callback_Url=receiver.url)
        receiver.wait(2)
        proxy.submit(content, Callback_Url=receiver.url)
        receiver.wait(3)
        stub.behave = slow(3)
        path = proxy.submit(Callback_Url=receiver.url).json()["links"]["self"]
        httpx.delete(proxy.url + path)
        receiver.wait(4)
        stub.behave = lambda _number, _body: (400, b'{"error": "No."}')
        proxy.submit(Callback_Url=receiver.url)
        receiver.wait(5)
        types = [json.loads(body)["type"] for _, body in receiver.received]
    assert types == ["prediction.succeeded"] * 3 + ["prediction.cancelled", "prediction.failed"]


@pytest.mark.parametrize("status", [500, 302, 404])
def test_a_receiver_that_does_not_confirm_is_told_again_with_the_same_id(proxy, status):
    with Receiver(lambda number: status if number == 0 else 200) as receiver:
        path = proxy.submit(Callback_Url=receiver.url).json()["links"]["self"]
        receiver.wait(2)
        ids = {headers["webhook-id"] for headers, _ in receiver.received}
    assert len(ids) == 1
    assert proxy.get(path).json()["status"] == "succeeded"


def test_a_receiver_that_never_confirms_is_given_up_and_the_result_stays(tmp_path, database_url, stub):
    with (
        running_proxy(tmp_path / "log", database_url, stub.url, callback_attempts=1, **SETTINGS) as proxy,
        Receiver(lambda _number: 500) as receiver,
    ):
        path = proxy.submit(Callback_Url=receiver.url).json()["links"]["self"]
        receiver.wait(1)
        time.sleep(0.5)
        assert rows(database_url, "SELECT last_error FROM callbacks WHERE gave_up_at IS NOT NULL") == [
            ("the receiver answered 500",)
        ]
        assert proxy.get(path).json()["predictions"]


def test_a_slow_receiver_does_not_hold_up_another(proxy):
    def late(_number: int) -> int:
        time.sleep(4)
        return 200

    with Receiver(late) as slow_one, Receiver(lambda _number: 200) as quick_one:
        with ThreadPoolExecutor(AT_ONCE_PER_HOST) as pool:
            list(pool.map(lambda _: proxy.submit(Callback_Url=slow_one.url), range(AT_ONCE_PER_HOST * 2)))
        slow_one.wait(AT_ONCE_PER_HOST)
        proxy.submit(Callback_Url=quick_one.url)
        quick_one.wait(1, seconds=2)
        assert len(slow_one.received) == AT_ONCE_PER_HOST
        slow_one.wait(AT_ONCE_PER_HOST * 2)


def test_a_callback_outlives_its_process(tmp_path, database_url, stub):
    with Receiver(lambda number: 500 if number == 0 else 200) as receiver:
        with running_proxy(tmp_path / "log", database_url, stub.url, **SETTINGS) as proxy:
            proxy.submit(Callback_Url=receiver.url)
            receiver.wait(1)
            proxy.kill()
        rows(database_url, "UPDATE callbacks SET due_at = now()")
        with running_proxy(tmp_path / "log", database_url, stub.url, **SETTINGS):
            receiver.wait(2)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://example.com/",
        "http://hooks.example.com.evil.org/",
        "http://hooks.example.com@evil.org/",
        "http://user:secret@hooks.example.com/",
        "file:///etc/passwd",
        "ftp://hooks.example.com/",
        "hooks.example.com",
        "http://hooks.example.com:99999/",
        "http://[",
        "http://hooks.example.com/" + "x" * 2000,
    ],
)
def test_any_other_address_is_refused(tmp_path, database_url, url, shared):
    reply = shared.submit(Callback_Url=url)
    assert (reply.status_code, list(reply.json())) == (400, ["error"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory, postgres) -> Iterator[Proxy]:
    from conftest import cloned_database

    settings = {**SETTINGS, "callback_hosts": '["hooks.example.com"]'}
    log = tmp_path_factory.mktemp("shared") / "log"
    with cloned_database(postgres) as url, running_proxy(log, url, "http://127.0.0.1:1", **settings) as proxy:
        yield proxy


def test_this_machine_is_refused_where_it_is_not_listed(shared):
    assert shared.submit(Callback_Url="http://127.0.0.1/").status_code == 400


PUBLIC = [
    "93.184.216.34",
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "223.255.255.255",
    "2606:2800:220:1:248:1893:25c8:1946",
    "2a00:1450:4001::1",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",  # what DNS64 makes of a public host that has no IPv6
]
PRIVATE_4 = [
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.170", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
]
EMBEDDED_IN = ["::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}"]
PRIVATE = [
    *PRIVATE_4,
    *(form.format(address) for form in EMBEDDED_IN for address in PRIVATE_4),
    *("::8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b:1::8.8.8.8", "64:ff9b:1:808:8:800::", "64:ff9b:1:ffff::1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "feff::1%3", "fc00::1", "fd00:ec2::254"),
    *("ff02::1", "ff0e::1", "100::1", "5f00::1", "4000::1", "200::1", "1::1", "ffff::1"),
    *("2001::1", "2001:0:7f00:1::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1"),
    *("2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1"),
]


@pytest.mark.parametrize(
    ("address", "public"), [*((address, True) for address in PUBLIC), *((address, False) for address in PRIVATE)]
)
def test_only_public_addresses_are_public(address, public):
    assert is_public(address) is public


def test_a_name_that_leads_to_a_private_address_is_not_connected_to():
    async def resolve(host: str) -> object:
        resolver = GuardedResolver()
        try:
            return await resolver.resolve(host, 80)
        finally:
            await resolver.close()

    import socket

    with pytest.raises(OSError, match="private"):
        asyncio.run(resolve(socket.gethostname()))
    assert asyncio.run(resolve("localhost"))


def test_the_waits_grow_to_hours_and_sum_to_about_a_day():
    patience = Patience(15, 12, FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS)
    waits = [patience.wait_seconds(tried) for tried in range(1, 12)]
    assert 3 < waits[0] < 7
    assert max(waits) < 4 * 3600 * 1.25
    assert 12 * 3600 < sum(waits) < 36 * 3600
