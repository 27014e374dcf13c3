"""Synchronous requests through the queue-proxy: the same bytes as from the predictor, and no more at once than set."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import tritonclient.http

from conftest import Server, cloned_database, free_port
from pictures import b64
from queue_server import IMAGE, Proxy, StubPredictor, answers, photo, prediction_reply, running_proxy, slow

NOT_COMPARED = {"x-request-id", "cache-status", "connection", "date", "server"}


@pytest.fixture(scope="module")
def front(tmp_path_factory, postgres, server: Server) -> Iterator[Proxy]:
    """Return a queue-proxy in front of the shared real predictor."""
    with (
        cloned_database(postgres) as url,
        running_proxy(tmp_path_factory.mktemp("front") / "log", url, server.url, model=server.model) as proxy,
    ):
        yield proxy


@pytest.fixture
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


def requests(model: str) -> dict[str, dict]:
    content = photo()
    one = {"name": "image", "shape": [1], "datatype": "BYTES"}
    return {
        "V1 list": {"method": "GET", "url": "/v1/models"},
        "V1 ready": {"method": "GET", "url": f"/v1/models/{model}"},
        "V2 live": {"method": "GET", "url": "/v2/health/live"},
        "V2 metadata": {"method": "GET", "url": f"/v2/models/{model}"},
        "V2 server": {"method": "GET", "url": "/v2"},
        "V1 image": {"method": "POST", "url": f"/v1/models/{model}:predict", "content": content, "headers": IMAGE},
        "V1 JSON": {
            "method": "POST",
            "url": f"/v1/models/{model}:predict",
            "json": {"instances": [{"b64": b64(content)}], "parameters": {"top_k": 2}},
        },
        "V2 JSON": {
            "method": "POST",
            "url": f"/v2/models/{model}/infer",
            "json": {"id": "7", "inputs": [{**one, "data": [b64(content)]}]},
        },
        "unknown model": {"method": "POST", "url": "/v1/models/none:predict", "content": content, "headers": IMAGE},
        "not an image": {"method": "POST", "url": f"/v1/models/{model}:predict", "content": b"x", "headers": IMAGE},
        "unload": {"method": "POST", "url": f"/v2/repository/models/{model}/unload"},
        "query": {"method": "GET", "url": "/v1/models?a=%2F&b=c%20d"},
        "nothing": {"method": "GET", "url": "/v2/none"},
    }


@pytest.mark.parametrize("name", requests("m"))
def test_replies_are_those_of_the_predictor(front, server, name):
    request = requests(server.model)[name]
    path = request.pop("url")
    direct, through = (httpx.request(url=f"{base}{path}", **request) for base in (server.url, front.url))
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    kept = {header: value for header, value in direct.headers.items() if header not in NOT_COMPARED}
    assert {header: value for header, value in through.headers.items() if header not in NOT_COMPARED} == kept
    assert "x-request-id" in through.headers


def test_a_kserve_client_works_through_it(front, server):
    client = tritonclient.http.InferenceServerClient(front.url.removeprefix("http://"))
    assert client.is_server_ready()
    tensor = tritonclient.http.InferInput("image", [1], "BYTES")
    import numpy as np

    tensor.set_data_from_numpy(np.array([photo()], dtype=np.object_))
    result = client.infer(server.model, [tensor])
    assert result.as_numpy("label").shape == (1,)


def test_identity_and_trace_pass_and_hop_by_hop_headers_do_not(tmp_path, database_url, stub):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = {**IMAGE, "X-Request-Id": "abc", "traceparent": trace, "tracestate": "a=b", "X-Other": "1", "TE": "trailers"}
    with running_proxy(tmp_path / "log", database_url, stub.url) as proxy:
        reply = httpx.post(proxy.predict_url, content=photo(), headers=sent)
    received = stub.headers[0]
    assert reply.headers.get_list("x-request-id") == ["abc"]
    assert (received["x-request-id"], received["traceparent"], received["tracestate"]) == ("abc", trace, "a=b")
    assert (received["x-other"], received["content-type"]) == ("1", "image/jpeg")
    assert "te" not in received
    assert received["host"] == f"127.0.0.1:{stub.port}"


def test_large_and_chunked_bodies_stream_through(tmp_path, database_url, stub):
    large = b"\xff" * 5_000_000
    with running_proxy(tmp_path / "log", database_url, stub.url) as proxy:
        assert httpx.post(proxy.predict_url, content=large, headers=IMAGE).status_code == 200
        chunks = [b"\xff" * 1_000_000] * 3
        assert httpx.post(proxy.predict_url, content=iter(chunks), headers=IMAGE).status_code == 200
        for too_large in (b"\xff" * 17_000_000, iter([b"\xff" * 1_000_000] * 17)):
            reply = httpx.post(proxy.predict_url, content=too_large, headers=IMAGE)
            assert (reply.status_code, list(reply.json())) == (413, ["error"])
    assert stub.bodies[:1] == [large]


@pytest.mark.parametrize(
    "begun",
    [
        b"Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\xff\xd8\r\n",
        b"Content-Type: image/jpeg\r\nContent-Length: 2000000\r\n\r\n\xff\xd8",
        b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    ],
    ids=["chunked", "large", "peeked"],
)
def test_a_body_that_stalls_on_its_way_is_refused_and_its_slot_is_free(tmp_path, database_url, stub, begun):
    settings = {"body_timeout_seconds": 0.5, "sync_in_flight": 1}
    with running_proxy(tmp_path / "log", database_url, stub.url, **settings) as proxy:
        address = ("127.0.0.1", httpx.URL(proxy.url).port)
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(f"POST /v1/models/{proxy.model}:predict HTTP/1.1\r\nHost: x\r\n".encode() + begun)
            assert b" 408 " in connection.recv(4096).split(b"\r\n", 1)[0]
        assert httpx.post(proxy.predict_url, content=photo(), headers=IMAGE).status_code == 200


def test_identical_requests_are_answered_once_and_then_from_memory(tmp_path, database_url, stub):
    stub.behave = slow(0.5)
    content = photo()
    with running_proxy(tmp_path / "log", database_url, stub.url) as proxy, ThreadPoolExecutor(10) as pool:

        def ask(**headers: str) -> httpx.Response:
            return httpx.post(proxy.predict_url, content=content, headers={**IMAGE, **headers})

        replies = list(pool.map(lambda _: ask(), range(10)))
        statuses = sorted(reply.headers["Cache-Status"] for reply in replies)
        assert statuses == ["queue-proxy; fwd=miss"] + ["queue-proxy; fwd=miss; collapsed"] * 9
        assert len({reply.content for reply in replies}) == 1
        assert ask().headers["Cache-Status"] == "queue-proxy; hit"
        assert len(stub.bodies) == 1
        assert ask(**{"Cache-Control": "no-cache"}).headers["Cache-Status"] == "queue-proxy; fwd=request"
        assert ask(Accept="text/plain").headers["Cache-Status"] == "queue-proxy; fwd=miss"
        assert len(stub.bodies) == 3


def test_a_failure_is_not_kept_nor_shared(tmp_path, database_url, stub):
    def behave(number: int, _body: bytes) -> tuple[int, bytes]:
        time.sleep(0.3)
        return (500, b'{"error": "no"}') if number == 0 else (200, prediction_reply())

    stub.behave = behave
    content = photo()
    with running_proxy(tmp_path / "log", database_url, stub.url) as proxy, ThreadPoolExecutor(3) as pool:
        replies = pool.map(lambda _: httpx.post(proxy.predict_url, content=content, headers=IMAGE), range(3))
        assert sorted(reply.status_code for reply in replies) == [200, 200, 500]


def test_more_than_the_limits_is_503_at_once_and_health_is_not_held_up(tmp_path, database_url, stub):
    stub.behave = slow(1)
    limits = {"sync_in_flight": 2, "sync_waiting": 3}
    with running_proxy(tmp_path / "log", database_url, stub.url, **limits) as proxy, ThreadPoolExecutor(9) as pool:

        def ask(_: int) -> httpx.Response:
            return httpx.post(proxy.predict_url, content=photo(), headers=IMAGE, timeout=20)

        replies = list(pool.map(ask, range(9)))
        assert sorted(reply.status_code for reply in replies) == [200] * 5 + [503] * 4
        refused = next(reply for reply in replies if reply.status_code == 503)
        assert (refused.headers["Retry-After"], list(refused.json())) == ("1", ["error"])
        assert refused.elapsed.total_seconds() < 0.9
        assert httpx.get(f"{proxy.url}/healthz").status_code == 200


def test_a_predictor_that_is_away_or_broken_is_said_in_our_shape(tmp_path, database_url, stub):
    def drop(_number: int, _body: bytes) -> tuple[int, bytes]:
        raise ConnectionError

    def ask(proxy: Proxy) -> tuple[int, list[str]]:
        reply = httpx.post(proxy.predict_url, content=photo(), headers=IMAGE)
        return reply.status_code, list(reply.json())

    with running_proxy(tmp_path / "log", database_url, stub.url, predictor_timeout_seconds=0.5) as proxy:
        stub.behave = drop
        assert ask(proxy) == (502, ["error"])
        stub.behave = slow(2)
        assert ask(proxy) == (504, ["error"])
    with running_proxy(tmp_path / "log", database_url, f"http://127.0.0.1:{free_port()}") as proxy:
        assert ask(proxy) == (503, ["error"])
        assert httpx.get(f"{proxy.url}/v1/models").headers["Retry-After"] == "1"


def test_a_reply_that_breaks_off_is_not_taken_for_whole(tmp_path, database_url):
    """The predictor promises 1,000,000 bytes and sends half of them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with running_proxy(tmp_path / "log", database_url, url, arguments=["--no-dispatch"]) as proxy:
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{proxy.url}/v2/models/m")
            assert httpx.get(f"{proxy.url}/healthz").status_code == 200
        thread.join()


def test_a_form_is_passed_on_as_the_image_in_it(front, server):
    content = photo()
    direct = httpx.post(server.predict_url, content=content, headers=IMAGE)
    through = httpx.post(front.predict_url, files={"file": ("photo.jpg", content, "image/jpeg")})
    assert (through.status_code, through.content) == (200, direct.content)


def test_a_wrong_preference_is_ignored(front, server):
    reply = httpx.post(front.predict_url, content=photo(), headers={**IMAGE, "Prefer": "return=minimal, wait=3"})
    assert reply.status_code == 200
    assert json.loads(reply.content)["predictions"]
