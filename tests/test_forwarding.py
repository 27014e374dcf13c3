"""Finished predictions as CloudEvents, to a webhook and to a real RabbitMQ."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import pytest

from conftest import end_process, free_port
from model_server.config import QueueProxySettings, load
from model_server.errors import SettingsError
from model_server.queue_proxy.forwarding import open_sink
from queue_server import StubPredictor, answers, photo, rows, running_proxy, slow
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
    with pytest.raises(SettingsError, match="MODEL_SERVER_RESULT_SINK"):
        load(QueueProxySettings, result_sink=url)


@pytest.mark.parametrize("url", ["kafka://host:9092", "kafka://host/", "amqp://guest:secret@host/"])
def test_url_without_topic_or_exchange_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_SERVER_RESULT_SINK") as refused:
        open_sink(load(QueueProxySettings, result_sink=url))
    assert "secret" not in str(refused.value)


@dataclass
class Rabbit:
    """A broker in a process of its own, which keeps its data over a restart."""

    folder: Path
    port: int
    names_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        distribution = free_port()
        environment = {
            **os.environ,
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.names_port),
        }
        with (self.folder / "out").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    server_program(),
                ],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while True:
            try:
                asyncio.run(self._ask())
                return
            except (OSError, aio_pika.exceptions.AMQPError):
                assert self.process.poll() is None, (self.folder / "out").read_text()
                assert time.monotonic() < deadline, (self.folder / "out").read_text()
                time.sleep(0.2)

    async def _ask(self) -> None:
        await (await aio_pika.connect(self.url)).close()

    def kill(self) -> None:
        """End the broker as a crash does, with all that it started."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                return
            time.sleep(0.05)

    async def declare(self, exchange: str, queue: str) -> None:
        connection = await aio_pika.connect(self.url)
        channel = await connection.channel()
        declared = await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True)
        bound = await channel.declare_queue(queue, durable=True)
        await bound.bind(declared, "model-server.prediction.#")
        await connection.close()

    async def take(self, queue: str, identifiers: set[str]) -> dict[str, Any]:
        """Return messages by their id, once all of these have come; within 20 s."""
        connection = await aio_pika.connect(self.url)
        bound = await (await connection.channel()).get_queue(queue)
        messages: dict[str, Any] = {}
        deadline = time.monotonic() + 20
        while not identifiers <= messages.keys():
            assert time.monotonic() < deadline, f"{identifiers - messages.keys()} have not come"
            if message := await bound.get(fail=False):
                await message.ack()
                messages[str(message.message_id)] = message
            else:
                await asyncio.sleep(0.05)
        await connection.close()
        return messages


def server_program() -> str:
    """Return RabbitMQ's own script; Debian's in the PATH would change to a user of its own."""
    inside = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(inside) if inside.exists() else str(shutil.which("rabbitmq-server"))


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[Rabbit]:
    if not shutil.which("rabbitmq-server"):
        pytest.skip("rabbitmq-server is not installed")
    folder = tmp_path / "rabbit"
    folder.mkdir()
    broker = Rabbit(folder, free_port(), free_port())
    # Erlang's name server, which the broker would else start as a daemon and leave behind.
    names = subprocess.Popen(["epmd", "-port", str(broker.names_port), "-address", "127.0.0.1"])
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
        end_process(names)


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
