"""Finished predictions as CloudEvents, to a webhook and to a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model_server.config import QueueProxySettings, load
from model_server.errors import SettingsError
from model_server.queue_proxy.forwarding import open_sink
from queue_server import StubPredictor, answers, photo, rows, running_proxy, slow
from rabbit import Rabbit
from test_callbacks import SETTINGS, Receiver

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


def wait_until_forwarded(database_url: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while rows(database_url, "SELECT count(*) FROM callbacks") != [(0,)]:
        assert time.monotonic() < deadline, "not everything is confirmed"
        time.sleep(0.05)


class TestHttp:
    def test_event_has_the_attributes_of_its_headers_and_the_prediction_as_data(
        self, stub: StubPredictor, database_url: str, tmp_path: Path
    ) -> None:
        with (
            Receiver(lambda _number: 202) as sink,
            running_proxy(tmp_path / "log", database_url, stub.url, result_sink=sink.url) as proxy,
        ):
            resource = proxy.submit(X_Request_Id="camera-7/42", traceparent=TRACE).json()
            sink.wait(1)
            headers, body = sink.received[0]
            finished = proxy.prediction(resource["id"])
            assert json.loads(body) == finished
            told = {name.lower(): value for name, value in headers.items()}
            assert {name: value for name, value in told.items() if name.startswith("ce-")} == {
                "ce-specversion": "1.0",
                "ce-id": resource["id"],
                "ce-source": f"/v1/models/{proxy.model}",
                "ce-type": "model-server.prediction.succeeded",
                "ce-subject": resource["id"],
                "ce-time": finished["finished_at"],
                "ce-requestid": "camera-7/42",
                "ce-traceparent": TRACE,
            }
            assert told["content-type"] == "application/json"
            wait_until_forwarded(database_url)

    def test_every_end_is_told_once_it_is_confirmed_and_callbacks_besides(
        self, stub: StubPredictor, database_url: str, tmp_path: Path
    ) -> None:
        stub.behave = slow(0.5)
        content = photo()
        with (
            Receiver(lambda _number: 200) as sink,
            Receiver(lambda _number: 200) as hook,
            running_proxy(tmp_path / "log", database_url, stub.url, result_sink=sink.url, **SETTINGS) as proxy,
        ):
            leader = proxy.submit(content, Callback_Url=hook.url).json()["id"]
            follower = proxy.submit(content).json()["id"]
            sink.wait(2)
            reused = proxy.submit(content).json()["id"]
            sink.wait(3)
            stub.behave = slow(3)
            cancelled = proxy.submit().json()["id"]
            httpx.delete(f"{proxy.url}/v1/predictions/{cancelled}")
            sink.wait(4)
            hook.wait(1)
            wait_until_forwarded(database_url)
            told = {json.loads(body)["id"]: json.loads(body)["status"] for _, body in sink.received}
            assert told == dict.fromkeys((leader, follower, reused), "succeeded") | {cancelled: "cancelled"}
            assert (len(sink.received), len(hook.received)) == (4, 1)

    def test_sink_that_is_down_delays_nothing_and_gets_everything_later_across_a_kill(
        self, stub: StubPredictor, database_url: str, tmp_path: Path
    ) -> None:
        with (
            Receiver(lambda _number: 503) as refusing,
            running_proxy(tmp_path / "1", database_url, stub.url, result_sink=refusing.url) as proxy,
        ):
            begun = time.monotonic()
            predictions = [proxy.submit(photo(), Prefer="respond-async, wait=10").json() for _ in range(20)]
            assert time.monotonic() - begun < 10
            assert {one["status"] for one in predictions} == {"succeeded"}
            refusing.wait(20)
            proxy.kill()
        assert rows(database_url, "SELECT count(*) FROM callbacks") == [(20,)]
        rows(database_url, "UPDATE callbacks SET due_at = now()")  # not to wait for the next try
        with (
            Receiver(lambda _number: 200) as sink,
            running_proxy(tmp_path / "2", database_url, stub.url, result_sink=sink.url),
        ):
            wait_until_forwarded(database_url)
            assert {json.loads(body)["id"] for _, body in sink.received} == {one["id"] for one in predictions}

    def test_nothing_is_kept_for_a_sink_that_is_not_set(
        self, stub: StubPredictor, database_url: str, tmp_path: Path
    ) -> None:
        with running_proxy(tmp_path / "log", database_url, stub.url) as proxy:
            assert proxy.submit(Prefer="respond-async, wait=10").json()["status"] == "succeeded"
        assert rows(database_url, "SELECT count(*) FROM callbacks") == [(0,)]


@pytest.mark.parametrize("url", ["ftp://host/x", "http://", "nonsense"])
def test_other_urls_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_SERVER_RESULT_SINK") as refused:
        load(QueueProxySettings, result_sink=url)
    assert url not in str(refused.value)


@pytest.mark.parametrize("url", ["kafka://host:9092", "kafka://host/", "amqp://guest:secret@host/"])
def test_url_without_topic_or_exchange_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_SERVER_RESULT_SINK") as refused:
        open_sink(load(QueueProxySettings, result_sink=url))
    assert "secret" not in str(refused.value)


class TestAmqp:
    def test_events_reach_the_exchange_and_survive_the_brokers_death(
        self, rabbit: Rabbit, stub: StubPredictor, database_url: str, tmp_path: Path
    ) -> None:
        asyncio.run(rabbit.declare("results", "mine"))
        with running_proxy(
            tmp_path / "log", database_url, stub.url, result_sink=f"{rabbit.url}results", callback_timeout_seconds=3
        ) as proxy:
            first = proxy.submit(X_Request_Id="camera-7", Prefer="respond-async, wait=10").json()
            message = asyncio.run(rabbit.take("mine", {first["id"]}))[first["id"]]
            assert json.loads(message.body) == proxy.prediction(first["id"])
            assert message.routing_key == "model-server.prediction.succeeded"
            assert message.content_type == "application/json"
            assert message.headers["cloudEvents:id"] == first["id"]
            assert message.headers["cloudEvents:requestid"] == "camera-7"
            rabbit.kill()
            meanwhile = [proxy.submit(photo(), Prefer="respond-async, wait=10").json() for _ in range(5)]
            assert {one["status"] for one in meanwhile} == {"succeeded"}
            rabbit.start()
            rows(database_url, "UPDATE callbacks SET due_at = now()")
            wait_until_forwarded(database_url)
            asyncio.run(rabbit.take("mine", {one["id"] for one in meanwhile}))

    def test_exchange_that_is_not_there_is_a_sink_that_is_down(
        self, rabbit: Rabbit, stub: StubPredictor, database_url: str, tmp_path: Path
    ) -> None:
        with running_proxy(
            tmp_path / "log", database_url, stub.url, result_sink=f"{rabbit.url}later", callback_timeout_seconds=3
        ) as proxy:
            made = proxy.submit(Prefer="respond-async, wait=10").json()
            deadline = time.monotonic() + 10
            while not rows(database_url, "SELECT 1 FROM callbacks WHERE last_error IS NOT NULL"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            asyncio.run(rabbit.declare("later", "mine"))
            rows(database_url, "UPDATE callbacks SET due_at = now()")
            wait_until_forwarded(database_url)
            asyncio.run(rabbit.take("mine", {made["id"]}))
