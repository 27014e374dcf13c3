"""Worker processes, one picture at a time each: no worker waits for another's interpreter.

The event loop hands out the work: the idlest worker gets the next picture. One that dies is replaced; the picture that
it had in hand fails, those behind it go to others.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from model_server.classifier import Picture, ServedModel
from model_server.decoding.child import Child
from model_server.decoding.complaints import Complaints
from model_server.decoding.messages import WORN_OUT, Frames, Outcome, Ready, Skipped, Task, frame
from model_server.errors import BundleError, ModelServerError, TooCostly, Unavailable
from model_server.image import Limits

logger = logging.getLogger(__name__)

PREFETCH = 2
"""Pictures at one worker at once: the next lies ready when it has finished one, however busy the event loop is."""
LOOK_SECONDS = 0.1
"""So often the pool looks after its workers while they have work. What lies behind a picture that has taken as long
goes to others."""
CANCELLED_SECONDS = 1.0
"""A worker that is so long at a picture that nobody waits for any more is ended."""
RESTART_SECONDS = 1
"""Pause after a replacement that could not load the model."""


@dataclass(frozen=True, slots=True)
class _Job:
    picture: Picture
    future: asyncio.Future[Any]


class Observer:
    """What a pool tells of its work; this one does not listen."""

    def finished(self, outcome: Outcome) -> None:
        """Hear of a picture that was answered."""

    def replaced(self) -> None:
        """Hear of a worker that ended and is replaced."""


class _Worker(asyncio.Protocol):
    """The connection to one worker process, and what it has in hand; None stands for what was taken back."""

    def __init__(self, pool: Pool, child: Child) -> None:
        self._pool = pool
        self._frames = Frames()
        self._transport: asyncio.WriteTransport
        self._loop = asyncio.get_running_loop()
        self._sent = 0
        self._since = 0.0
        self.child = child
        self.in_hand: deque[_Job | None] = deque()
        self.ready: asyncio.Future[Ready] = self._loop.create_future()

    @property
    def seconds(self) -> float:
        """How long it has been at the picture it is at."""
        return self._loop.time() - self._since if self.in_hand else 0.0

    @property
    def has_room(self) -> bool:
        """Whether a picture would be begun soon."""
        return len(self.in_hand) < PREFETCH and self.seconds < LOOK_SECONDS

    @property
    def works_for_nobody(self) -> bool:
        """Whether the picture it is at is one that nobody waits for."""
        first = self.in_hand[0] if self.in_hand else None
        return first is None or first.future.cancelled()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def take(self, job: _Job) -> None:
        """Send a picture."""
        if not self.in_hand:
            self._since = self._loop.time()
        self._sent += 1
        self.in_hand.append(job)
        self._transport.write(frame(job.picture))

    def take_back(self) -> list[_Job]:
        """Return the pictures that it has not begun, which it will skip."""
        behind = [job for job in list(self.in_hand)[1:] if job]
        if behind:
            self.child.take_back(self._sent)
            self.in_hand = deque([self.in_hand[0], *[None] * (len(self.in_hand) - 1)])
        return behind

    def data_received(self, data: bytes) -> None:
        """Take the first message as the model, each other as the outcome of the oldest picture in hand."""
        for message in self._frames.feed(data):
            if isinstance(message, Outcome | Skipped):
                job = self.in_hand.popleft()
                self._since = self._loop.time()
                self._pool.finished(job, message)
            elif isinstance(message, Ready):
                self.ready.set_result(message)
            else:
                self.ready.set_exception(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the exit status says more
        """Tell the pool: the process has ended, or is about to."""
        if not self.ready.done():
            self.ready.set_exception(BundleError("A worker process ended while it loaded the model."))
        self._pool.lost(self)

    async def end(self) -> tuple[int, bytes]:
        """Close the connection, so that the process ends; return its exit status and its last complaints."""
        self._transport.close()
        return await self.child.end()


class Pool:
    """``count`` processes, started by the constructor, which get their task by ``begin``, be a loop running or not."""

    def __init__(self, count: int, observer: Observer | None = None) -> None:
        self._observer = observer or Observer()
        self._complaints = Complaints()
        self._waiting: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._task: Task
        self._ready: Ready
        self._children = [Child() for _ in range(count)]
        self._replacements: set[asyncio.Task[None]] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        """Pictures that no worker has begun."""
        return len(self._waiting) + sum(max(0, len(worker.in_hand) - 1) for worker in self._workers)

    @property
    def alive(self) -> int:
        """Processes that can take a picture."""
        return len(self._workers)

    def begin(self, task: Task) -> None:
        """Give the processes their task, which they prepare while the caller goes on."""
        self._task = task
        for child in self._children:
            child.begin(task)

    async def start(self) -> ServedModel | None:
        """Wait until each process is ready; returns the model where they have one. Raises BundleError."""
        workers = [await self._connect(child) for child in self._children]
        self._children = []
        try:
            self._ready, *_ = await asyncio.gather(*(worker.ready for worker in workers))
        except BaseException:
            self._closing = True
            await asyncio.gather(*(worker.end() for worker in workers))
            raise
        self._workers = workers
        return self._ready.model

    def submit(self, pictures: Sequence[Picture]) -> list[asyncio.Future[Any]]:
        """Queue ``pictures``, however many wait: the bound is the caller's. Returns a future of each result.

        Where a future is cancelled its picture is skipped, or the work on it ended.
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(picture, loop.create_future()) for picture in pictures]
        self._waiting.extend(jobs)
        self._hand_out()
        return [job.future for job in jobs]

    async def close(self) -> None:
        """Finish what waits, then end the processes."""
        jobs = [*self._waiting, *(job for worker in self._workers for job in worker.in_hand if job)]
        await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        self._closing = True
        if self._next_look:
            self._next_look.cancel()
        for replacement in self._replacements:
            replacement.cancel()
        for worker in self._workers:
            if worker.in_hand:  # what nobody waits for
                worker.child.kill()
        for child in self._children:
            child.socket.close()
        ends = [worker.end() for worker in self._workers] + [child.end() for child in self._children]
        await asyncio.gather(*ends, *self._replacements, return_exceptions=True)

    def finished(self, job: _Job | None, message: Outcome | Skipped) -> None:
        """Deliver the outcome of a picture and hand out the next."""
        if job and isinstance(message, Outcome):
            self._observer.finished(message)
            _deliver(job, message.result)
        self._hand_out()

    def lost(self, worker: _Worker) -> None:
        """Replace a worker that ended at work; its first picture fails, the others go back to the head of the queue."""
        if self._closing or worker not in self._workers:
            return
        self._workers.remove(worker)
        begun = worker.in_hand.popleft() if worker.in_hand else None
        self._waiting.extendleft(job for job in reversed(worker.in_hand) if job)
        self._hand_out()
        replacement = asyncio.create_task(self._replace(worker, begun))
        self._replacements.add(replacement)
        replacement.add_done_callback(self._replacements.discard)

    def _hand_out(self) -> None:
        """Give the idlest worker the next picture, as long as one has room."""
        while self._waiting and (free := [worker for worker in self._workers if worker.has_room]):
            job = self._waiting.popleft()
            if not job.future.cancelled():
                min(free, key=lambda one: len(one.in_hand)).take(job)
                self._look_later()

    def _look_later(self) -> None:
        if not self._next_look:
            # In a context of its own: what it logs belongs to no request.
            self._next_look = asyncio.get_running_loop().call_later(
                LOOK_SECONDS, self._look, context=contextvars.Context()
            )

    def _look(self) -> None:
        """Take from slow workers what they have not begun, end work that nobody waits for, hear the libraries."""
        self._next_look = None
        self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
        for worker in self._workers:
            self._complaints.note(worker.child.complaints())
            if worker.seconds >= LOOK_SECONDS:
                self._waiting.extendleft(reversed(worker.take_back()))
            if worker.seconds >= CANCELLED_SECONDS and worker.works_for_nobody:
                worker.child.kill()
        self._hand_out()
        if any(worker.in_hand for worker in self._workers):
            self._look_later()

    async def _connect(self, child: Child) -> _Worker:
        loop = asyncio.get_running_loop()
        _, worker = await loop.create_unix_connection(lambda: _Worker(self, child), sock=child.socket)
        return worker

    async def _another(self) -> Child:
        """Start a worker process, once memory and process numbers are there for it: the last may have died for want."""
        while True:
            try:
                child = Child()
            except OSError as error:
                logger.error("worker process cannot be started: %s", error)  # noqa: TRY400 - the sentence says it
                await asyncio.sleep(RESTART_SECONDS)
            else:
                child.begin(self._task)
                return child

    async def _bury(self, worker: _Worker, begun: _Job | None) -> None:
        """Say why a worker ended, to the log and to who waits for the picture that it was at."""
        status, last_words = await worker.end()
        self._complaints.note(last_words)
        logger.warning("worker process ended", extra={"exit_status": status})
        self._observer.replaced()
        if begun and status == WORN_OUT:
            self._waiting.appendleft(begun)
            self._hand_out()
        elif begun:
            _deliver(begun, _cause(status, self._task.limits))

    async def _replace(self, lost: _Worker, begun: _Job | None) -> None:
        while True:
            await self._bury(lost, begun)
            lost, begun = await self._connect(await self._another()), None
            try:
                if await lost.ready == self._ready:
                    break
                logger.error("worker process not used: the model's folder has changed; restart the server to serve it")
            except BundleError as error:
                logger.error("worker process not used: %s", error)  # noqa: TRY400 - the sentence says it
            await asyncio.sleep(RESTART_SECONDS)
        self._workers.append(lost)
        self._hand_out()


def _deliver(job: _Job, result: object) -> None:
    if job.future.done():
        return
    if isinstance(result, Exception):
        job.future.set_exception(result)
    else:
        job.future.set_result(result)


def _cause(exit_status: int, limits: Limits) -> ModelServerError:
    """Return what the end of a worker means for the picture that it was at."""
    if exit_status == -signal.SIGPROF:
        return TooCostly(f"The image takes more processor time to decode than one image may: {limits.cpu_seconds:g} s.")
    return Unavailable("The worker process died over this image. Try again later.")
