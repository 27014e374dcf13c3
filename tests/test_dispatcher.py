"""Nothing is lost and nothing is done twice: workers, predictor and database killed under load, each job counted."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import uuid
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy.engine import make_url

from conftest import database_folder, free_port, running_server
from job_audit import count_ends
from model_server.store.embedded import EmbeddedPostgres
from model_server.store.migrate import migrate
from queue_server import (
    ASYNC,
    StubPredictor,
    answers,
    assert_each_ended_once,
    photo,
    prediction_reply,
    rows,
    running_proxy,
    slow,
    submit_all,
    wait_until_all_ended,
)
from rabbit import Rabbit

JOBS = 500
LEASE = {"dispatch_lease_seconds": 2, "dispatch_poll_seconds": 1}


@pytest.fixture
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


@pytest.fixture(params=["postgres", "rabbitmq"])
def queue(request) -> Iterator[dict[str, object]]:
    """Return the settings of each queue in turn; no fault leaves a message in RabbitMQ."""
    if request.param == "postgres":
        yield {}
        return
    broker: Rabbit = request.getfixturevalue("shared_rabbit")
    name = f"test-{uuid.uuid4()}"
    yield {"queue": broker.url, "queue_name": name}
    deadline = time.monotonic() + 5
    while asyncio.run(broker.waiting(name)):
        assert time.monotonic() < deadline, "messages are left in the queue"
        time.sleep(0.1)
    asyncio.run(broker.delete(name))


@pytest.fixture
def some_done(database_url):
    """Wait until a few jobs have ended: the middle of the work."""

    def wait(count: int) -> None:
        wait_until_all_ended(database_url, count)

    return wait


def test_killed_queue_proxy(tmp_path, database_url, queue, stub, some_done):
    stub.behave = slow(0.05)
    count_ends(database_url)
    port = free_port()
    with running_proxy(tmp_path / "log", database_url, stub.url, port=port, **LEASE, **queue) as first:
        ids = submit_all(first, JOBS)
        some_done(JOBS // 3)
        first.kill()
    with running_proxy(tmp_path / "log", database_url, stub.url, port=port, **LEASE, **queue):
        wait_until_all_ended(database_url, JOBS)
    assert_each_ended_once(database_url, ids.values())


def test_killed_queue_proxy_while_clients_submit(tmp_path, database_url, queue, stub):
    count_ends(database_url)
    port = free_port()
    ids: dict[str, str] = {}
    with running_proxy(tmp_path / "log", database_url, stub.url, port=port, **LEASE, **queue) as first:
        thread = threading.Thread(target=lambda: ids.update(submit_all(first, JOBS)))
        thread.start()
        wait_until_all_ended(database_url, 50)
        first.kill()
    with running_proxy(tmp_path / "log", database_url, stub.url, port=port, **LEASE, **queue):
        thread.join(60)
        wait_until_all_ended(database_url, JOBS)
    assert len(ids) == JOBS
    assert_each_ended_once(database_url, ids.values())


@pytest.mark.parametrize("both", [False, True], ids=["predictor", "predictor and queue-proxy"])
def test_killed_predictor(tmp_path, database_url, queue, some_done, both):
    count_ends(database_url)
    port, proxy_port = free_port(), free_port()
    with (
        running_server(tmp_path / "predictor", port=port, workers=1) as predictor,
        running_proxy(
            tmp_path / "log", database_url, predictor.url, port=proxy_port, model=predictor.model, **LEASE, **queue
        ) as proxy,
    ):
        ids = submit_all(proxy, JOBS)
        some_done(JOBS // 10)
        predictor.process.send_signal(signal.SIGKILL)
        predictor.process.wait()
        if both:
            proxy.kill()
        with (
            running_server(tmp_path / "predictor", port=port),
            running_proxy(
                tmp_path / "log", database_url, predictor.url, port=proxy_port if both else None, **LEASE, **queue
            ),
        ):
            wait_until_all_ended(database_url, JOBS)
    assert_each_ended_once(database_url, ids.values())


def test_two_queue_proxies_on_one_database(tmp_path, database_url, queue, stub):
    count_ends(database_url)
    with (
        running_proxy(tmp_path / "log", database_url, stub.url, **queue) as first,
        running_proxy(tmp_path / "log2", database_url, stub.url, **queue) as second,
    ):
        ids = submit_all(first, JOBS // 2) | submit_all(second, JOBS // 2)
        wait_until_all_ended(database_url, JOBS)
        shares = [
            float(line.rsplit(" ", 1)[1])
            for proxy in (first, second)
            for line in proxy.get("/metrics").text.splitlines()
            if line.startswith('model_server_queue_proxy_attempts_total{outcome="succeeded"}')
        ]
    assert len(stub.bodies) == len(set(stub.bodies)) == JOBS
    assert sum(shares) == JOBS
    assert_each_ended_once(database_url, ids.values())


def test_sigterm_finishes_what_is_in_flight_and_leaves_the_rest(tmp_path, database_url, queue, stub, some_done):
    stub.behave = slow(0.1)
    count_ends(database_url)
    with running_proxy(tmp_path / "log", database_url, stub.url, dispatch_concurrency=8, **queue) as first:
        ids = submit_all(first, 200)
        some_done(20)
        assert first.stop() == 0
    statuses = dict(rows(database_url, "SELECT status, count(*) FROM predictions GROUP BY status"))
    assert statuses.keys() == {"queued", "succeeded"}
    assert len(stub.bodies) == statuses["succeeded"]
    stub.behave = answers()
    with running_proxy(tmp_path / "log", database_url, stub.url, **queue):
        wait_until_all_ended(database_url, 200)
    assert len(stub.bodies) == 200
    assert_each_ended_once(database_url, ids.values())


def test_what_outlasts_the_grace_is_given_back(tmp_path, database_url, queue, stub):
    stub.behave = slow(8)
    with running_proxy(tmp_path / "log", database_url, stub.url, shutdown_grace_seconds=1, **queue) as proxy:
        proxy.submit()
        wait_for_request(stub)
        assert proxy.stop(6) == 0
    assert rows(database_url, "SELECT status FROM predictions") == [("queued",)]
    stub.behave = answers()
    with running_proxy(tmp_path / "log", database_url, stub.url, **queue):
        assert wait_until_all_ended(database_url, 1, 5) == {"succeeded": 1}


def wait_for_request(stub: StubPredictor, count: int = 1) -> None:
    deadline = time.monotonic() + 20
    while len(stub.bodies) < count:
        assert time.monotonic() < deadline, f"{len(stub.bodies)} requests have come"
        time.sleep(0.01)


def test_work_resumes_within_a_second_of_the_predictors_return(tmp_path, database_url, queue):
    port = free_port()
    with running_proxy(tmp_path / "log", database_url, f"http://127.0.0.1:{port}", **queue) as proxy:
        ids = [proxy.submit().json()["id"] for _ in range(5)]
        time.sleep(3)
        assert "circuit_open 1.0" in proxy.get("/metrics").text
        attempts = rows(database_url, "SELECT sum(attempts) FROM predictions")[0][0]
        assert attempts < 40, "it hammers"
        with StubPredictor(answers(), port):
            begun = time.monotonic()
            assert proxy.prediction(ids[0], wait=5)["status"] == "succeeded"
            wait_until_all_ended(database_url, 5, 5)
            assert time.monotonic() - begun < 1.2


def failing(kind: str):
    """Return a behaviour that fails twice in one way and then answers."""

    def behave(number: int, _body: bytes) -> tuple[int, bytes]:
        if number >= 2:
            return 200, prediction_reply()
        match kind:
            case "drops":
                raise ConnectionError
            case "hangs":
                time.sleep(3)
        return FAILURES[kind]

    return behave


FAILURES = {
    "drops": (0, b""),
    "hangs": (200, prediction_reply()),
    "500": (500, b'{"error": "out of memory"}'),
    "502": (502, b"<html>"),
    "503": (503, b'{"error": "the queue is full"}'),
    "429": (429, b""),
    "nonsense": (200, b"<html>"),
    "no predictions": (200, b'{"predictions": []}'),
    "not an object": (200, b"[1]"),
    "what PostgreSQL cannot hold": (200, b'{"predictions": [{"label": "\\u0000"}]}'),
    "a message that it cannot hold": (500, b'{"error": "\\u0000"}'),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_passing_failure_is_tried_again(tmp_path, database_url, stub, kind):
    stub.behave = failing(kind)
    settings = {"retry_first_seconds": 0.05, "predictor_timeout_seconds": 1}
    with running_proxy(tmp_path / "log", database_url, stub.url, **settings) as proxy:
        resource = proxy.submit(Prefer="respond-async, wait=15").json()
    assert (resource["status"], resource["attempts"], resource["error"]) == ("succeeded", 3, None)


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
def test_a_refusal_is_for_good(tmp_path, database_url, stub, status):
    stub.behave = lambda _number, _body: (status, b'{"error": "This is no image."}')
    with running_proxy(tmp_path / "log", database_url, stub.url) as proxy:
        resource = proxy.submit(Prefer="respond-async, wait=10").json()
    assert (resource["status"], resource["attempts"], len(stub.bodies)) == ("failed", 1, 1)
    assert resource["error"] == {"code": "rejected", "message": "This is no image.", "status": status}


def test_retries_end_at_the_deadline(request, tmp_path, database_url, queue, stub):
    stub.behave = lambda _number, _body: (500, b'{"error": "Out of memory."}')
    with running_proxy(tmp_path / "log", database_url, stub.url, retry_first_seconds=0.1, **queue) as proxy:
        begun = time.monotonic()
        resource = proxy.submit(Prefer="respond-async, wait=15", Prediction_Deadline="2").json()
        assert 1.5 < time.monotonic() - begun < 6
    assert (resource["status"], resource["error"]["code"]) == ("failed", "deadline_exceeded")
    assert "Out of memory." in resource["error"]["message"]
    assert 2 <= resource["attempts"] <= 8
    if queue:  # a retry that was due in that moment may be left there: whoever takes it drops it
        asyncio.run(request.getfixturevalue("shared_rabbit").purge(queue["queue_name"]))


def test_an_attempt_ends_at_the_deadline_and_its_slot_is_free(tmp_path, database_url, queue, stub):
    def behave(number: int, _body: bytes) -> tuple[int, bytes]:
        time.sleep(8 if number == 0 else 0)
        return 200, prediction_reply()

    stub.behave = behave
    settings = {"dispatch_concurrency": 1, "retry_first_seconds": 0.1, **queue}
    with running_proxy(tmp_path / "log", database_url, stub.url, **settings) as proxy:
        late = proxy.submit(Prediction_Deadline="1").json()["id"]
        begun = time.monotonic()
        assert proxy.submit(Prefer="respond-async, wait=20").json()["status"] == "succeeded"
        assert time.monotonic() - begun < 6
        assert proxy.prediction(late, wait=5)["error"]["code"] == "deadline_exceeded"


def test_a_job_past_its_deadline_is_never_run(tmp_path, database_url, queue, stub):
    with running_proxy(tmp_path / "log", database_url, stub.url, arguments=["--no-dispatch"], **queue) as proxy:
        proxy.submit(Prediction_Deadline="0.5")
        time.sleep(0.6)
    with running_proxy(tmp_path / "log", database_url, stub.url, **queue):
        assert wait_until_all_ended(database_url, 1, 10) == {"failed": 1}
        time.sleep(1)  # it may have failed before it came out of the queue
    assert stub.bodies == []


def test_a_lost_notification_is_made_up_for_by_looking(tmp_path, database_url, queue, stub):
    with running_proxy(tmp_path / "log", database_url, stub.url, dispatch_poll_seconds=0.5, **queue) as proxy:
        rows(database_url, "DROP TRIGGER tg_pgqueuer_changed ON pgqueuer")
        rows(database_url, "DROP TRIGGER outbox_notify ON outbox")
        time.sleep(0.7)
        assert proxy.submit(Prefer="respond-async, wait=5").json()["status"] == "succeeded"


def test_the_number_in_flight_is_bounded(tmp_path, database_url, queue, stub):
    most, lock = [0, 0], threading.Lock()

    def behave(_number: int, _body: bytes) -> tuple[int, bytes]:
        with lock:
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.05)
        with lock:
            most[0] -= 1
        return 200, prediction_reply()

    stub.behave = behave
    with running_proxy(tmp_path / "log", database_url, stub.url, dispatch_concurrency=4, **queue) as proxy:
        submit_all(proxy, 60)
        wait_until_all_ended(database_url, 60)
    assert 2 <= most[1] <= 4


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """Return a PostgreSQL server of the test's own, migrated, to be stopped and started."""
    with database_folder() as folder:
        server = EmbeddedPostgres(folder)
        server.start()
        migrate(make_url(server.url).set(drivername="postgresql+psycopg"))
        yield server
        server.stop()


def test_a_stopped_database_loses_nothing(tmp_path, own_server, queue, stub):
    """Stop PostgreSQL for ten seconds while clients submit and jobs are dispatched."""
    count_ends(own_server.url)
    stub.behave = slow(0.05)
    ids: dict[str, str] = {}
    refused: list[int] = []
    with running_proxy(tmp_path / "log", own_server.url, stub.url, dispatch_concurrency=4, **LEASE, **queue) as proxy:
        thread = threading.Thread(target=lambda: ids.update(submit_all(proxy, JOBS)))
        thread.start()
        wait_until_all_ended(own_server.url, 50)
        own_server.stop()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            refused.append(httpx.post(proxy.predict_url, content=photo(), headers=ASYNC, timeout=30).status_code)
            assert proxy.get("/healthz").status_code == 200
            # Readiness is a view of the queue that may be half a second old: it follows within the first second.
            assert proxy.get("/readyz").status_code == 503 or end - time.monotonic() > 9
            time.sleep(0.5)
        own_server.start()
        thread.join(60)
        wait_until_all_ended(own_server.url, JOBS)
    assert set(refused) == {503}
    assert_each_ended_once(own_server.url, ids.values())
