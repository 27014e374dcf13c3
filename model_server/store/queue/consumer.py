"""From the broker to whoever takes: what is delivered waits here, and is acknowledged once PostgreSQL has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from uuid import UUID

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage, AbstractQueue, ConsumerTag

from model_server.background import Duty
from model_server.store.queue.broker import ANSWER_SECONDS, BROKER_ERRORS, Broker, Prepare
from model_server.store.queue.interface import Entry
from model_server.store.waiting import is_set_within

logger = logging.getLogger(__name__)

FIRST_LOOK_SECONDS, LOOK_SECONDS = 2, 30


class Consumer:
    """Holds up to ``most`` messages, delivered or taken; to a lost connection belong none but those that were taken."""

    def __init__(self, broker: Broker, most: int, prepare: Prepare, found_empty: Callable[[], Awaitable[None]]) -> None:
        self._broker = broker
        self._most = most
        self._prepare = prepare
        self._found_empty = found_empty
        self._delivered: dict[UUID, AbstractIncomingMessage] = {}
        self._taken: dict[UUID, AbstractIncomingMessage] = {}
        self._consuming: tuple[AbstractQueue, ConsumerTag] | None = None
        self._has_received = False
        self._released = False
        self.work = asyncio.Event()

    async def run(self, duty: Duty) -> None:
        """Receive until cancelled."""
        await self._broker.keep(duty, lambda connection: self._receive_all(connection, duty))

    async def _receive_all(self, connection: AbstractConnection, duty: Duty) -> None:
        await self._prepare(connection)
        ended = asyncio.Event()
        channel = await connection.channel()
        channel.close_callbacks.add(lambda *_: ended.set())
        # The queue was deleted, or its leader is gone.
        (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(lambda _: ended.set())
        await channel.set_qos(prefetch_count=self._most)
        queue = await channel.get_queue(self._broker.queue_name, ensure=False)
        try:
            if not self._released:
                self._consuming = queue, await queue.consume(self._receive, timeout=ANSWER_SECONDS)
            duty.works()
            await self._look_until(ended, connection)
        finally:
            self._consuming = None
            self._delivered.clear()

    async def _look_until(self, ended: asyncio.Event, connection: AbstractConnection) -> None:
        """Now and then, where nothing comes, see whether the queue is empty indeed.

        Right after its start a broker says so of any queue: what it held is delivered by the first look.
        """
        seconds = FIRST_LOOK_SECONDS
        while True:
            self._has_received = False
            if await is_set_within(ended, seconds):
                return
            seconds = LOOK_SECONDS
            is_idle = not (self._has_received or self._delivered or self._taken or self._released)
            if is_idle and await self._broker.waiting(connection) == 0:
                await self._found_empty()

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        self._has_received = True
        try:
            prediction = UUID(message.body.decode())
        except ValueError:
            logger.warning("a message that is no prediction's id is dropped")
            await _acknowledge(message)
            return
        if self._released:
            await message.nack(requeue=True)
        elif prediction in self._taken:
            await self._replace(prediction, message)
        else:
            known = self._delivered.get(prediction)
            self._delivered[prediction] = message
            self.work.set()
            if known is not None:
                await _acknowledge(known)

    async def _replace(self, prediction: UUID, message: AbstractIncomingMessage) -> None:
        """Keep the newer message of what is being worked on: the older may be of a connection that is lost."""
        older, self._taken[prediction] = self._taken[prediction], message
        await _acknowledge(older)

    def take(self, most: int) -> list[Entry]:
        """Take up to ``most`` of what was delivered, most urgent first; their handles are the messages."""
        order = sorted(self._delivered, key=lambda one: (-(self._delivered[one].priority or 0), one))[:most]
        for prediction in order:
            self._taken[prediction] = self._delivered.pop(prediction)
        return [Entry(prediction, self._taken[prediction]) for prediction in order]

    def undo(self, entries: Iterable[Entry]) -> None:
        """Let what was taken be taken again."""
        for entry in entries:
            message = self._taken.pop(entry.prediction, None)
            if message is not None and not message.channel.is_closed:
                self._delivered[entry.prediction] = message
        self.work.set()

    async def settle(self, entries: Iterable[Entry]) -> None:
        """Tell the broker to forget what was taken; one that is away delivers it again, and it is found to be done.

        Of a prediction that was announced anew meanwhile, perhaps because this is its retry, the new message is kept.
        """
        done = []
        for entry in entries:  # without a pause: what comes during one is another message
            message = self._taken.pop(entry.prediction, None)
            if message is None:
                continue
            if message is entry.handle or message.redelivered:
                done.append(message)
            else:
                self._delivered[entry.prediction] = message
                self.work.set()
        for message in done:
            await _acknowledge(message)

    async def release(self) -> None:
        """Receive no more, and give back what was delivered and not taken."""
        self._released = True
        consuming, self._consuming = self._consuming, None
        delivered, self._delivered = self._delivered, {}
        with suppress(*BROKER_ERRORS):
            if consuming is not None:
                queue, tag = consuming
                await queue.cancel(tag, timeout=ANSWER_SECONDS)
            for message in delivered.values():
                await message.nack(requeue=True)


async def _acknowledge(message: AbstractIncomingMessage) -> None:
    with suppress(*BROKER_ERRORS):
        async with asyncio.timeout(ANSWER_SECONDS):
            await message.ack()
