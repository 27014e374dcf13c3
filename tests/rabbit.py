"""A RabbitMQ of the tests' own."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika


@dataclass
class Rabbit:
    """A broker in a process of its own, which keeps its data over a restart."""

    folder: Path
    port: int
    names_port: int
    distribution_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        environment = {
            **os.environ,
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.names_port),
        }
        program = server_program()
        assert program
        with (self.folder / "out").open("ab") as output:
            self.process = subprocess.Popen(
                [program],
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

    async def waiting(self, queue: str) -> int:
        """Return how many messages nobody has taken."""
        async with await aio_pika.connect(self.url) as connection:
            declared = await (await connection.channel()).declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def delete(self, queue: str) -> None:
        async with await aio_pika.connect(self.url) as connection:
            await (await connection.channel()).queue_delete(queue)

    async def purge(self, queue: str) -> None:
        async with await aio_pika.connect(self.url) as connection:
            await (await (await connection.channel()).get_queue(queue)).purge()

    async def send(self, queue: str, *bodies: bytes) -> None:
        async with await aio_pika.connect(self.url) as connection:
            exchange = (await connection.channel()).default_exchange
            for body in bodies:
                await exchange.publish(aio_pika.Message(body), queue)

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


def server_program() -> str | None:
    """Return RabbitMQ's own script; Debian's in the PATH would change to a user of its own."""
    inside = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(inside) if inside.exists() else shutil.which("rabbitmq-server")
