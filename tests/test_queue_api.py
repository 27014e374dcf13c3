"""The queue-proxy's API over real HTTP: submit, wait, list, cancel, events, reuse, and what strangers send."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from starlette.requests import Request

from conftest import cloned_database
from model_server.config import QueueProxySettings
from model_server.queue_proxy.parts import Parts
from model_server.queue_proxy.predictions import PredictionRoutes
from model_server.store import runs, submissions
from model_server.store.submissions import Accepted, Submission
from pictures import b64
from queue_server import (
    ASYNC,
    IMAGE,
    VERSION,
    Proxy,
    StubPredictor,
    answers,
    photo,
    rows,
    running_proxy,
    slow,
)

JSON = "application/json"
MIB = 2**20
UNKNOWN_ID = "01a00000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def shared_stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


@pytest.fixture
def stub(shared_stub) -> StubPredictor:
    shared_stub.behave = answers()
    shared_stub.bodies.clear()
    shared_stub.headers.clear()
    return shared_stub


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory, postgres, shared_stub) -> Iterator[Proxy]:
    with (
        cloned_database(postgres) as database_url,
        running_proxy(tmp_path_factory.mktemp("proxy") / "log", database_url, shared_stub.url) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def shared_idle(tmp_path_factory, postgres, shared_stub) -> Iterator[Proxy]:
    log = tmp_path_factory.mktemp("idle") / "log"
    with (
        cloned_database(postgres) as database_url,
        running_proxy(log, database_url, shared_stub.url, arguments=["--no-dispatch"]) as running,
    ):
        yield running


@pytest.fixture
def proxy(shared_proxy, stub) -> Proxy:
    """Return a queue-proxy with nothing in its database."""
    return emptied(shared_proxy)


@pytest.fixture
def idle(shared_idle, stub) -> Proxy:
    """Return a queue-proxy with nothing in its database, and whose queue nobody works through."""
    return emptied(shared_idle)


def emptied(proxy: Proxy) -> Proxy:
    rows(proxy.database_url, "TRUNCATE predictions, images, feedback, callbacks, pgqueuer")
    return proxy


def wait_for(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def test_submit_says_where_and_when_and_keeps_the_promise(proxy):
    reply = proxy.submit(Prefer="respond-async")
    resource = reply.json()
    assert reply.status_code == 202
    assert reply.headers["Preference-Applied"] == "respond-async"
    assert reply.headers["Location"] == f"/v1/predictions/{resource['id']}" == resource["links"]["self"]
    assert int(reply.headers["Retry-After"]) >= 1
    assert (resource["status"], resource["position"], resource["attempts"]) == ("queued", 0, 0)
    assert list(resource) == [
        "id", "status", "model", "model_version", "created_at", "started_at", "finished_at", "deadline", "attempts",
        "position", "eta_seconds", "predictions", "error", "image_sha256", "links",
    ]  # fmt: skip
    ended = proxy.prediction(resource["id"], wait=10)
    assert (ended["status"], ended["model_version"], ended["attempts"]) == ("succeeded", VERSION, 1)
    assert ended["predictions"][0]["label"] == "cat"
    assert ended["created_at"] <= ended["started_at"] <= ended["finished_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ended["finished_at"])


@pytest.mark.parametrize(
    "prefer", ["respond-async, wait=10", 'wait="10", respond-async', "foo=1, Respond-Async, wait=10"]
)
def test_a_preferred_wait_answers_with_the_result(proxy, prefer):
    reply = proxy.submit(Prefer=prefer)
    assert (reply.status_code, reply.json()["status"]) == (200, "succeeded")
    assert reply.headers["Content-Location"] == reply.json()["links"]["self"]
    assert reply.headers["Preference-Applied"] == "respond-async, wait=10"


def test_a_wait_that_is_too_short_answers_202(proxy, stub):
    stub.behave = slow(1)
    begun = time.monotonic()
    reply = proxy.submit(Prefer="respond-async, wait=0.3")
    assert (reply.status_code, reply.json()["status"]) == (202, "running")
    assert 0.3 <= time.monotonic() - begun < 0.9


@pytest.mark.parametrize("wait", ["-1", "x", "nan", "inf", ""])
def test_a_malformed_wait_is_ignored(idle, wait):
    begun = time.monotonic()
    reply = idle.submit(Prefer=f"respond-async, wait={wait}")
    assert (reply.status_code, reply.headers["Preference-Applied"]) == (202, "respond-async")
    assert idle.get(f"/v1/predictions/{reply.json()['id']}", Prefer=f"wait={wait}").status_code == 200
    assert time.monotonic() - begun < 3


def test_a_long_wait_is_cut_to_the_limit(tmp_path, database_url, stub):
    with running_proxy(
        tmp_path / "log", database_url, stub.url, arguments=["--no-dispatch"], wait_most_seconds=0.2
    ) as proxy:
        reply = proxy.submit(Prefer="respond-async, wait=1e9")
        assert (reply.status_code, reply.headers["Preference-Applied"]) == (202, "respond-async, wait=0.2")


def bodies(content: bytes) -> dict[str, dict]:
    document = {"instances": [{"image": {"b64": b64(content)}}]}
    return {
        "image": {"content": content, "headers": IMAGE},
        "image of another name": {"content": content, "headers": {"Content-Type": "image/unknown"}},
        "JSON": {"json": document},
        "form": {"files": {"file": ("photo.jpg", content, "image/jpeg")}},
    }


@pytest.mark.parametrize("kind", ["image", "image of another name", "JSON", "form"])
def test_every_kind_of_body_is_one_image(proxy, stub, kind):
    content = photo()
    request = bodies(content)[kind]
    request["headers"] = {**request.get("headers", {}), "Prefer": "respond-async, wait=10"}
    resource = httpx.post(proxy.predict_url, **request).json()
    assert resource["status"] == "succeeded"
    assert stub.bodies == [content]
    image = proxy.get(resource["links"]["image"])
    assert (image.content, image.headers["Content-Type"]) == (content, "image/jpeg")
    assert image.headers["X-Content-Type-Options"] == "nosniff"


def test_parameters_and_several_images_reach_the_predictor(proxy, stub):
    one = {"instances": [{"b64": b64(photo())}], "parameters": {"top_k": 2}}
    two = {"instances": [{"b64": b64(photo())}, {"b64": b64(photo())}]}
    for document in (one, two):
        reply = httpx.post(proxy.predict_url, json=document, headers={"Prefer": "respond-async, wait=10"})
        assert reply.json()["status"] == "succeeded"
    assert [json.loads(body) for body in stub.bodies] == [one, two]
    assert reply.json()["image_sha256"] is None
    assert proxy.get(f"/v1/predictions/{reply.json()['id']}/image").status_code == 404


def test_identity_travels_with_a_job(proxy, stub):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    proxy.submit(Prefer="respond-async, wait=10", X_Request_Id="abc", traceparent=trace)
    assert (stub.headers[0]["x-request-id"], stub.headers[0]["traceparent"]) == ("abc", trace)


def test_the_list_is_paged_and_filtered(idle):
    ids = [idle.submit().json()["id"] for _ in range(5)]
    idle_cancelled = ids[2]
    httpx.delete(f"{idle.url}/v1/predictions/{idle_cancelled}")
    seen, cursor = [], None
    while True:
        page = idle.get(f"/v1/predictions?limit=2{f'&cursor={cursor}' if cursor else ''}").json()
        assert len(page["predictions"]) <= 2
        seen += [one["id"] for one in page["predictions"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == sorted(ids, reverse=True)
    listed = idle.get("/v1/predictions?status=cancelled").json()
    assert ([one["id"] for one in listed["predictions"]], listed["next_cursor"]) == ([idle_cancelled], None)


@pytest.mark.parametrize(
    "query",
    ["cursor=x", "cursor=%00", "cursor=AAAA", "limit=0", "limit=101", "limit=0099999999", "limit=x", "status=lost"],
)
def test_a_wrong_query_is_400(idle, query):
    reply = idle.get(f"/v1/predictions?{query}")
    assert (reply.status_code, list(reply.json())) == (400, ["error"])


@pytest.mark.parametrize("path", ["", "/image", "/events"])
@pytest.mark.parametrize("identifier", ["x", "..%2f", "00000000-0000-0000-0000-000000000000"])
def test_a_malformed_id_is_404(idle, path, identifier):
    assert idle.get(f"/v1/predictions/{identifier}{path}").status_code == 404


def test_an_unknown_id_is_404_and_one_past_the_retention_410(idle):
    recent = f"{int(time.time() * 1000):012x}"
    for method in ("GET", "DELETE"):
        unknown = f"{recent[:8]}-{recent[8:]}-7000-8000-000000000000"
        assert httpx.request(method, f"{idle.url}/v1/predictions/{unknown}").status_code == 404
        old = "018a0000-0000-7000-8000-000000000000"
        assert httpx.request(method, f"{idle.url}/v1/predictions/{old}").status_code == 410


def test_finished_predictions_are_gone_after_the_retention(tmp_path, database_url, stub):
    with running_proxy(tmp_path / "log", database_url, stub.url, retention_seconds=1) as proxy:
        path = proxy.submit(Prefer="respond-async, wait=10").json()["links"]["self"]
        assert proxy.get(path).status_code == 200
        wait_for(lambda: proxy.get(path).status_code == 410)
        wait_for(lambda: rows(database_url, "SELECT count(*) FROM images") == [(0,)])


def test_a_queued_prediction_is_cancelled_once(idle):
    path = idle.submit().json()["links"]["self"]
    reply = httpx.delete(idle.url + path)
    assert (reply.status_code, reply.json()["status"]) == (200, "cancelled")
    assert httpx.delete(idle.url + path).status_code == 409


def test_a_running_prediction_is_cancelled_and_its_slot_free(proxy, stub):
    stub.behave = slow(5)
    path = proxy.submit().json()["links"]["self"]
    wait_for(lambda: proxy.get(path).json()["status"] == "running")
    assert httpx.delete(proxy.url + path).json()["status"] == "cancelled"
    wait_for(lambda: "model_server_queue_proxy_dispatch_in_flight 0.0" in proxy.get("/metrics").text, 3)
    assert rows(proxy.database_url, "SELECT count(*) FROM pgqueuer") == [(0,)]


def test_position_and_queue_tell_what_waits(idle):
    first, second = idle.submit().json(), idle.submit().json()
    urgent = idle.submit(Priority="u=0").json()
    assert [idle.prediction(one["id"])["position"] for one in (urgent, first, second)] == [0, 1, 2]
    wait_for(lambda: idle.queue()["queued"] == 3)
    assert idle.queue()["oldest_age_seconds"] > 0


def test_an_estimate_is_given_once_there_is_experience(tmp_path, database_url, stub):
    stub.behave = slow(1)
    with running_proxy(tmp_path / "log", database_url, stub.url, dispatch_concurrency=1) as proxy:
        proxy.submit(Prefer="respond-async, wait=10")
        several = [proxy.submit().json()["id"] for _ in range(8)]
        time.sleep(0.6)
        # Far enough apart that one which ends between the two looks changes nothing.
        estimates = [proxy.prediction(one)["eta_seconds"] for one in (several[4], several[7])]
        assert all(0.3 < estimate < 15 for estimate in estimates)
        assert estimates[0] < estimates[1]


def test_events_tell_each_change_and_end(proxy, stub):
    stub.behave = slow(0.5)
    path = proxy.submit().json()["links"]["events"]
    with httpx.stream("GET", proxy.url + path, timeout=20) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        lines = list(reply.iter_lines())
    events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert events[-2:] == ["running", "succeeded"]
    assert json.loads([line for line in lines if line.startswith("data: ")][-1][6:])["predictions"]


def test_events_begin_with_what_changed_since_the_request_came(database_url, stub):
    """The stream is listened for after the prediction was read: what changes in between has no notification."""

    async def first_event() -> bytes:
        parts = Parts.make(QueueProxySettings(database_url=database_url, predictor_url=stub.url))
        one = Submission("m", photo(), bytes(32), "image/jpeg")
        (accepted,) = await submissions.submit(parts.database, parts.queue, [one])
        assert isinstance(accepted, Accepted)
        scope = {"type": "http", "headers": [], "path_params": {"id": str(accepted.row.id)}}
        reply = await PredictionRoutes(parts).events(Request(scope))
        assert await runs.cancel(parts.queue, accepted.row.id)
        event = await anext(reply.body_iterator)
        await parts.close()
        return event

    assert b"event: cancelled" in asyncio.run(first_event())


def test_the_same_key_from_twenty_clients_at_once_is_one_prediction(proxy):
    content = photo()
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: proxy.submit(content, Idempotency_Key="k"), range(20)))
    assert {reply.status_code for reply in replies} == {202}
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert rows(proxy.database_url, "SELECT count(*) FROM predictions") == [(1,)]
    other = proxy.submit(Idempotency_Key="k")
    assert (other.status_code, list(other.json())) == (422, ["error"])


def test_identical_requests_in_flight_are_computed_once(proxy, stub):
    stub.behave = slow(0.5)
    content = photo()
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: proxy.submit(content, Prefer="respond-async, wait=10"), range(10)))
    assert {reply.json()["status"] for reply in replies} == {"succeeded"}
    assert len({reply.json()["id"] for reply in replies}) == 10
    assert len(stub.bodies) == 1
    statuses = sorted(reply.headers["Cache-Status"] for reply in replies)
    assert statuses == ["queue-proxy; fwd=miss"] + ["queue-proxy; fwd=miss; collapsed"] * 9
    again = proxy.submit(content)
    assert (again.headers["Cache-Status"], again.json()["status"]) == ("queue-proxy; hit", "succeeded")
    fresh = proxy.submit(content, Prefer="respond-async, wait=10", Cache_Control="no-cache")
    assert (fresh.headers["Cache-Status"], len(stub.bodies)) == ("queue-proxy; fwd=request", 2)


def test_a_synchronous_result_answers_an_asynchronous_request_and_the_other_way_round(proxy, stub):
    """An image as it is; of the queue's own results the database knows, of synchronous ones the process alone."""
    first, second = photo(), photo()
    direct = httpx.post(proxy.predict_url, content=first, headers=IMAGE)
    queued = proxy.submit(first)
    assert (queued.headers["Cache-Status"], queued.json()["status"]) == ("queue-proxy; hit", "succeeded")
    assert queued.json()["predictions"] == direct.json()["predictions"]
    assert queued.json()["model_version"] == VERSION
    document = {"instances": [{"b64": b64(first)}]}
    assert httpx.post(proxy.predict_url, json=document, headers={"Prefer": "respond-async"}).json()["predictions"]
    proxy.submit(second, Prefer="respond-async, wait=10")
    assert len(stub.bodies) == 2
    again = httpx.post(proxy.predict_url, content=second, headers={"Content-Type": "image/png", "Accept": JSON})
    assert (again.headers["Cache-Status"], again.content) == ("queue-proxy; hit", direct.content)
    assert again.headers["Model-Version"] == VERSION
    for headers in ({"Cache-Control": "no-cache"}, {"Accept": "text/plain"}):
        httpx.post(proxy.predict_url, content=second, headers={**IMAGE, **headers})
    assert len(stub.bodies) == 4, "what may differ is asked for"


def test_a_synchronous_request_and_a_running_job_share_one_answer(proxy, stub):
    stub.behave = slow(0.5)
    content = photo()
    with ThreadPoolExecutor(2) as pool:
        queued = proxy.submit(content).json()
        wait_for(lambda: stub.bodies)
        direct = pool.submit(httpx.post, proxy.predict_url, content=content, headers=IMAGE)
        assert direct.result().headers["Cache-Status"] == "queue-proxy; fwd=miss; collapsed"
        assert proxy.prediction(queued["id"], wait=5)["status"] == "succeeded"
        other = photo()
        first = pool.submit(httpx.post, proxy.predict_url, content=other, headers=IMAGE)
        wait_for(lambda: len(stub.bodies) == 2)
        assert proxy.submit(other, Prefer="respond-async, wait=5").json()["status"] == "succeeded"
        assert first.result().status_code == 200
    assert len(stub.bodies) == 2


def test_a_synchronous_request_is_answered_where_the_job_it_joined_is_cancelled(proxy, stub):
    stub.behave = slow(1)
    content = photo()
    with ThreadPoolExecutor(1) as pool:
        path = proxy.submit(content).json()["links"]["self"]
        wait_for(lambda: stub.bodies)
        direct = pool.submit(httpx.post, proxy.predict_url, content=content, headers=IMAGE, timeout=20)
        time.sleep(0.3)
        assert httpx.delete(proxy.url + path).json()["status"] == "cancelled"
        assert direct.result().status_code == 200
    assert len(stub.bodies) == 2


def test_reuse_is_turned_off_by_a_setting(tmp_path, database_url, stub):
    with running_proxy(tmp_path / "log", database_url, stub.url, cache_seconds=0) as proxy:
        content = photo()
        for _ in range(2):
            assert proxy.submit(content, Prefer="respond-async, wait=10").json()["status"] == "succeeded"
            assert "Cache-Status" not in httpx.post(proxy.predict_url, content=content, headers=IMAGE).headers
        assert len(stub.bodies) == 4


GOOD = {"b64": b64(photo())}
REFUSED = {
    "not an image": (b"hello", "image/jpeg", 400, "not an image"),
    "empty": (b"", "image/jpeg", 400, "empty"),
    "SVG": (b"<svg/>", "image/svg+xml", 400, "not an image"),
    "13 MB image": (b"\xff\xd8\xff" + b"\0" * 13 * MIB, "image/jpeg", 413, "at most"),
    "17 MB body": (b"\0" * 17 * MIB, "image/jpeg", 413, "at most"),
    "text": (b"hello", "text/plain", 415, "content type"),
    "broken JSON": (b"{", JSON, 400, "not JSON"),
    "JSON array": (b"[]", JSON, 400, "not a JSON object"),
    "no instances": (b"{}", JSON, 400, "instances"),
    "not base64": (json.dumps({"instances": [{"b64": "!"}]}).encode(), JSON, 400, "base64"),
    "base64 of text": (json.dumps({"instances": [{"b64": "aGVsbG8="}]}).encode(), JSON, 400, "not an image"),
    "instance of text": (json.dumps({"instances": ["x"]}).encode(), JSON, 400, r"instances\[0\]"),
    "65 instances": (json.dumps({"instances": [GOOD] * 65}).encode(), JSON, 400, "at most 64"),
    "NUL": (json.dumps({"instances": [GOOD], "parameters": {"\0": 1}}).encode(), JSON, 400, "NUL"),
    "form without boundary": (b"x", "multipart/form-data", 400, "form"),
    "form without file": (b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x", 400, "form|file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_body_that_cannot_be_classified_is_refused_and_nothing_is_stored(idle, case):
    content, media_type, status, words = REFUSED[case]
    headers = {"Content-Type": media_type, "Prefer": "respond-async"}
    reply = httpx.post(idle.predict_url, content=content, headers=headers)
    assert (reply.status_code, list(reply.json())) == (status, ["error"])
    assert re.search(words, reply.json()["error"])
    assert rows(idle.database_url, "SELECT count(*) FROM images") == [(0,)]
    assert rows(idle.database_url, "SELECT count(*) FROM predictions") == [(0,)]


def tensor(*images: bytes, **more: object) -> dict:
    return {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": [b64(one) for one in images], **more}


def infer(proxy: Proxy, inputs: list[dict], binary: bytes = b"", **headers: str) -> httpx.Response:
    document = json.dumps({"inputs": inputs, "outputs": [{"name": "label"}]}).encode()
    length = {"Inference-Header-Content-Length": str(len(document))} if binary else {}
    return httpx.post(
        f"{proxy.url}/v2/models/{proxy.model}/infer",
        content=document + binary,
        headers={"Content-Type": JSON, "Prefer": "respond-async, wait=10", **length, **headers},
    )


def in_binary(*images: bytes) -> tuple[dict, bytes]:
    """Return the tensor and what follows the JSON, by the binary tensor extension."""
    binary = b"".join(struct.pack("<I", len(one)) + one for one in images)
    described = {"name": "image", "datatype": "BYTES", "shape": [len(images)]}
    return {**described, "parameters": {"binary_data_size": len(binary)}}, binary


def test_a_v2_request_is_queued_as_the_image_it_carries(proxy, stub):
    content = photo()
    replies = [
        infer(proxy, [tensor(content)]),
        infer(proxy, [in_binary(content)[0]], in_binary(content)[1], **{"Cache-Control": "no-cache"}),
    ]
    for reply in replies:
        assert (reply.status_code, reply.json()["status"]) == (200, "succeeded")
        assert reply.json()["predictions"][0]["label"] == "cat"
        assert proxy.get(reply.json()["links"]["image"]).content == content
    assert stub.bodies == [content, content]
    alike = proxy.submit(content)
    assert alike.headers["Cache-Status"] == "queue-proxy; hit", "V1 and V2 of one image are the same work"


def test_a_queued_v2_request_of_several_images_has_a_prediction_for_each(proxy, stub):
    first, second = photo(), photo()
    document = {"instances": [{"b64": b64(first)}, {"b64": b64(second)}]}
    described, binary = in_binary(first, second)
    for reply in (infer(proxy, [tensor(first, second)]), infer(proxy, [described], binary)):
        assert reply.json()["status"] == "succeeded"
        assert reply.json()["image_sha256"] is None
    assert [json.loads(body) for body in stub.bodies] == [document], "the second is the same work"


V2_REFUSED = {
    "no inputs": ([], b"", {}, 400, "inputs"),
    "other input": ([tensor(photo(), name="x")], b"", {}, 400, "'image'"),
    "pixels": ([tensor(photo(), datatype="UINT8", shape=[1, 1, 1, 3], data=[1, 2, 3])], b"", {}, 400, "BYTES"),
    "no shape": ([tensor(photo(), shape=[])], b"", {}, 400, "shape"),
    "wrong shape": ([tensor(photo(), shape=[2])], b"", {}, 400, "1 elements"),
    "too many": ([tensor(*[photo()] * 65)], b"", {}, 400, "at most 64"),
    "not base64": ([tensor(photo(), data=["!"])], b"", {}, 400, r"image\[0\] is not base64"),
    "not text": ([tensor(photo(), data=[1])], b"", {}, 400, r"image\[0\] is not base64"),
    "not an image": ([tensor(b"hello")], b"", {}, 400, "not an image"),
    "no data": ([tensor(photo(), data=None)], b"", {}, 400, "data"),
    "wrong size": ([tensor(photo(), data=None, parameters={"binary_data_size": 9})], b"12345678", {}, 400, "JSON: 8"),
    "cut off": (
        [tensor(photo(), data=None, parameters={"binary_data_size": 6})],
        b"\x09\0\0\0ab",
        {},
        400,
        "ends within",
    ),
    "endless": (
        [tensor(photo(), data=None, parameters={"binary_data_size": 8000})],
        bytes(8000),
        {},
        400,
        "more elements than the 1 of its shape",
    ),
    "left over": ([tensor(photo())], b"12345678", {}, 400, "belong to no input"),
    "wrong length": ([tensor(photo())], b"", {"Inference-Header-Content-Length": "1e9"}, 400, "number of bytes"),
    "image as it is": ([], b"", IMAGE, 415, "content type"),
}


@pytest.mark.parametrize("case", V2_REFUSED)
def test_a_v2_body_that_cannot_be_queued_is_refused_and_nothing_is_stored(idle, case):
    inputs, binary, headers, status, words = V2_REFUSED[case]
    reply = infer(idle, inputs, binary, **headers)
    assert (reply.status_code, list(reply.json())) == (status, ["error"])
    assert re.search(words, reply.json()["error"])
    assert rows(idle.database_url, "SELECT count(*) FROM images") == [(0,)]


def test_v2_images_that_v1_could_not_carry_together_are_refused(idle):
    large = b"\xff\xd8\xff" + b"\0" * (5 * MIB)
    described, binary = in_binary(large, large, large)
    reply = infer(idle, [described], binary)
    assert (reply.status_code, "as base64" in reply.json()["error"]) == (413, True)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Prediction-Deadline": "0"}, "above 0"),
        ({"Prediction-Deadline": "soon"}, "above 0"),
        ({"Idempotency-Key": "k" * 256}, "255"),
        ({"Callback-Url": "https://example.com/"}, "turned off"),
    ],
)
def test_a_wrong_header_is_400(idle, headers, words):
    reply = idle.submit(**headers)
    assert reply.status_code == 400
    assert words in reply.json()["error"]


@pytest.mark.parametrize("value", ["u=²", "u=", "u=-1"])
def test_a_malformed_priority_counts_as_the_default(idle, value):
    headers = httpx.Headers({**ASYNC, "Priority": value}, encoding="latin-1")
    assert httpx.post(idle.predict_url, content=photo(), headers=headers).status_code == 202
    assert rows(idle.database_url, "SELECT priority FROM predictions") == [(3,)]


def test_priority_and_deadline_are_kept(idle):
    idle.submit(Priority="u=1, i", Prediction_Deadline="120")
    idle.submit(Priority="u=9", Prediction_Deadline="1e12")
    found = rows(
        idle.database_url,
        "SELECT priority, extract(epoch FROM deadline - created_at)::int FROM predictions ORDER BY id",
    )
    assert found == [(1, 120), (3, 86400)]


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/predictions"), ("POST", "/v1/queue"), ("GET", "/nothing")])
def test_what_is_not_there_is_said_in_our_shape(idle, method, path):
    reply = httpx.request(method, idle.url + path)
    assert (reply.status_code, list(reply.json())) == (405 if method != "GET" else 404, ["error"])


def test_the_documentation_names_every_route_and_status(idle):
    document = idle.get("/openapi.json").json()
    page = idle.get("/docs")
    assert "script" not in page.headers["Content-Security-Policy"]
    for path, operations in document["paths"].items():
        assert path in page.text
        assert all(operation["responses"] for operation in operations.values())
    assert set(document["paths"]["/v1/models/{model}:predict"]["post"]["responses"]) >= {"200", "202", "422", "503"}


def test_health_says_what_works(idle):
    assert idle.get("/healthz").json() == {"status": "ok"}
    assert idle.get("/readyz").status_code == 200


def test_a_database_without_tables_is_said_so(tmp_path, postgres, stub):
    from sqlalchemy.engine import make_url

    url = make_url(postgres).set(database="postgres").render_as_string(hide_password=False)
    with running_proxy(tmp_path / "log", url, stub.url, ready=503) as proxy:
        reply = proxy.get("/readyz")
        assert (reply.status_code, "migrate" in reply.json()["error"]) == (503, True)
        assert proxy.submit().status_code == 503


def test_what_was_accepted_is_not_refused_where_the_database_fails_afterwards(tmp_path, database_url, stub):
    with (
        running_proxy(tmp_path / "log", database_url, stub.url, arguments=["--no-dispatch"]) as proxy,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(proxy.submit, Prefer="respond-async, wait=2")
        wait_for(lambda: rows(database_url, "SELECT count(*) FROM predictions") == [(1,)])
        rows(database_url, "ALTER TABLE predictions RENAME TO away")
        reply = waiting.result()
        assert (reply.status_code, reply.json()["status"], reply.json()["position"]) == (202, "queued", None)
        assert rows(database_url, "SELECT id::text FROM away") == [(reply.json()["id"],)]


def test_sigterm_ends_those_who_wait_with_what_there_is(tmp_path, database_url, stub):
    with (
        running_proxy(tmp_path / "log", database_url, stub.url, arguments=["--no-dispatch"]) as proxy,
        ThreadPoolExecutor(2) as pool,
    ):
        identifier = proxy.submit().json()["id"]
        waiting = pool.submit(proxy.get, f"/v1/predictions/{identifier}", Prefer="wait=50")
        watching = pool.submit(proxy.get, f"/v1/predictions/{identifier}/events")
        time.sleep(0.5)
        begun = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - begun < 5
        assert waiting.result().json()["status"] == "queued"
        assert "event: queued" in watching.result().text


def test_a_process_that_only_dispatches_serves_no_predictions(tmp_path, database_url, stub):
    with (
        running_proxy(tmp_path / "log", database_url, stub.url, arguments=["--dispatch-only"]) as worker,
        running_proxy(tmp_path / "log2", database_url, stub.url, arguments=["--no-dispatch"]) as front,
    ):
        assert worker.submit().status_code == 404
        assert front.submit(Prefer="respond-async, wait=10").json()["status"] == "succeeded"


def test_metrics_count_the_life_of_a_job(tmp_path, database_url, stub):
    with running_proxy(tmp_path / "log", database_url, stub.url) as proxy:
        proxy.submit(Prefer="respond-async, wait=10")
        time.sleep(0.6)
        text = proxy.get("/metrics").text
    prefix = "model_server_queue_proxy"
    for sample in (
        f'{prefix}_submitted_total{{cache="computed"}} 1.0',
        f'{prefix}_attempts_total{{outcome="succeeded"}} 1.0',
        f'{prefix}_results_total{{status="succeeded"}} 1.0',
        f"{prefix}_dispatch_seconds_count 1.0",
        f"{prefix}_queued 0.0",
        f"{prefix}_running 0.0",
        f"{prefix}_oldest_age_seconds 0.0",
        f"{prefix}_circuit_open 0.0",
        f"{prefix}_callbacks_waiting 0.0",
    ):
        assert sample in text, sample


def test_a_port_that_is_taken_is_named_with_its_setting(database_url, tmp_path):
    import os
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "model_server", "queue-proxy", "--host", "127.0.0.1"]
        command += ["--port", str(taken.getsockname()[1]), "--database-url", database_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "MODEL_SERVER_QUEUE_PROXY_PORT" in done.stderr
    assert "Traceback" not in done.stderr
