"""Decoding and inference in worker processes, one picture at a time each: no worker waits for another's interpreter.

The event loop hands out the work: the idlest worker gets the next picture. One that dies is replaced; the picture that
it had in hand fails, those behind it go to others.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from model_server.classifier import Picture
from model_server.config import PredictorSettings
from model_server.errors import BundleError, Unavailable
from model_server.predictor import metrics
from model_server.predictor.worker_messages import Frames, Loaded, Outcome, frame
from model_server.predictor.workers import ServedModel, Stage

logger = logging.getLogger(__name__)

PREFETCH = 2
"""Pictures at one worker at once: the next lies ready when it has finished one, however busy the event loop is."""
END_SECONDS = 5
"""A process that has not ended so long after its socket was closed is killed."""
RESTART_SECONDS = 1
"""Pause after a replacement that could not load the model."""


@dataclass(frozen=True, slots=True)
class _Job:
    picture: Picture
    future: asyncio.Future[Any]


class _Child:
    """A worker process and the server's end of the socket pair; its standard error is the server's."""

    def __init__(self, settings: PredictorSettings) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "model_server.predictor.worker_process", str(theirs.fileno())]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])  # noqa: S603
        # It fits the socket's buffer, so this does not wait for the child.
        self.socket.sendall(frame(settings))

    async def end(self) -> int:
        """Wait for the process whose socket is closed; kill it where it does not end. Returns its exit status."""
        try:
            return await asyncio.to_thread(self.process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)


class _Worker(asyncio.Protocol):
    """The connection to one worker process, and what it has in hand."""

    def __init__(self, pool: ProcessWorkers, child: _Child) -> None:
        self._pool = pool
        self._frames = Frames()
        self._transport: asyncio.WriteTransport
        self.child = child
        self.in_hand: deque[_Job] = deque()
        self.loaded: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def take(self, job: _Job) -> None:
        """Send a picture."""
        self.in_hand.append(job)
        self._transport.write(frame(job.picture))

    def data_received(self, data: bytes) -> None:
        """Take the first message as the model, each other as the outcome of the oldest picture in hand."""
        for message in self._frames.feed(data):
            if isinstance(message, Outcome):
                self._pool.finished(self.in_hand.popleft(), message)
            elif isinstance(message, Loaded):
                self.loaded.set_result(message)
            else:
                self.loaded.set_exception(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the exit status says more
        """Tell the pool: the process has ended, or is about to."""
        if not self.loaded.done():
            self.loaded.set_exception(BundleError("A worker process ended while it loaded the model."))
        self._pool.lost(self)

    async def end(self) -> int:
        """Close the connection, so that the process ends; return its exit status."""
        self._transport.close()
        return await self.child.end()


class ProcessWorkers:
    """``count`` processes with one session each; they are started by the constructor and load meanwhile."""

    def __init__(self, settings: PredictorSettings, count: int) -> None:
        self._settings = settings
        self._waiting: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._model: Loaded | None = None
        self._children = [_Child(settings) for _ in range(count)]
        self._replacements: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def waiting(self) -> int:
        """Pictures that no worker has begun."""
        return len(self._waiting) + sum(max(0, len(worker.in_hand) - 1) for worker in self._workers)

    @property
    def alive(self) -> int:
        """Processes that can take a picture."""
        return len(self._workers)

    @property
    def stages(self) -> Sequence[Stage]:
        """Decoding and inference in one."""
        return [self._submit]

    async def start(self) -> ServedModel:
        """Wait until each process has loaded and checked the model; raises BundleError."""
        workers = [await self._connect(child) for child in self._children]
        try:
            self._model, *_ = await asyncio.gather(*(worker.loaded for worker in workers))
        except BaseException:
            self._closing = True
            await asyncio.gather(*(worker.end() for worker in workers))
            raise
        self._workers = workers
        return ServedModel(self._model.bundle, self._model.runtime)

    async def close(self) -> None:
        """Finish what waits, then end the processes."""
        jobs = [*self._waiting, *(job for worker in self._workers for job in worker.in_hand)]
        await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        self._closing = True
        for replacement in self._replacements:
            replacement.cancel()
        await asyncio.gather(*(worker.end() for worker in self._workers), *self._replacements, return_exceptions=True)

    def finished(self, job: _Job, outcome: Outcome) -> None:
        """Deliver the outcome of a picture and hand out the next."""
        metrics.DECODE_SECONDS.observe(outcome.decode_seconds)
        result = outcome.result
        if isinstance(result, Exception):
            if not job.future.done():
                job.future.set_exception(result)
        else:
            metrics.BATCH_SIZE.observe(1)
            metrics.INFERENCE_SECONDS.observe(outcome.inference_seconds)
            if not job.future.done():
                job.future.set_result(result)
        self._hand_out()

    def lost(self, worker: _Worker) -> None:
        """Replace a worker that died at work; its first picture fails, the others go back to the head of the queue."""
        if self._closing or worker not in self._workers:
            return
        self._workers.remove(worker)
        if worker.in_hand and not (first := worker.in_hand.popleft().future).done():
            first.set_exception(Unavailable("The worker process died over this image. Try again later."))
        self._waiting.extendleft(reversed(worker.in_hand))
        self._hand_out()
        replacement = asyncio.create_task(self._replace(worker))
        self._replacements.add(replacement)
        replacement.add_done_callback(self._replacements.discard)

    def _submit(self, pictures: Sequence[Picture]) -> list[asyncio.Future[Any]]:
        loop = asyncio.get_running_loop()
        jobs = [_Job(picture, loop.create_future()) for picture in pictures]
        self._waiting.extend(jobs)
        self._hand_out()
        return [job.future for job in jobs]

    def _hand_out(self) -> None:
        """Give the idlest worker the next picture, as long as one has room."""
        while self._waiting and self._workers:
            worker = min(self._workers, key=lambda one: len(one.in_hand))
            if len(worker.in_hand) >= PREFETCH:
                return
            job = self._waiting.popleft()
            if not job.future.cancelled():
                worker.take(job)

    async def _connect(self, child: _Child) -> _Worker:
        loop = asyncio.get_running_loop()
        _, worker = await loop.create_unix_connection(lambda: _Worker(self, child), sock=child.socket)
        return worker

    async def _another(self) -> _Child:
        """Start a worker process, once memory and process numbers are there for it: the last may have died for want."""
        while True:
            try:
                return _Child(self._settings)
            except OSError as error:
                logger.error("worker process cannot be started: %s", error)  # noqa: TRY400 - the sentence says it
            await asyncio.sleep(RESTART_SECONDS)

    async def _replace(self, lost: _Worker) -> None:
        while True:
            logger.error("worker process ended", extra={"exit_status": await lost.end()})
            metrics.WORKER_RESTARTS.inc()
            lost = await self._connect(await self._another())
            try:
                if await lost.loaded == self._model:
                    break
                logger.error("worker process not used: the model's folder has changed; restart the server to serve it")
            except BundleError as error:
                logger.error("worker process not used: %s", error)  # noqa: TRY400 - the sentence says it
            await asyncio.sleep(RESTART_SECONDS)
        self._workers.append(lost)
        self._hand_out()
