"""Several predictors that share the callers by weight, such as a model and its canary, and may change at any time.

A caller stays with one predictor, and moves only where its weight shrinks. ``place`` says where in the split the caller
of the present task stands; a queued prediction carries it in the last bits of its id, so that every worker of every
process asks the same predictor for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from uuid import UUID

from starlette.types import Scope

from model_server.breaker import Breaker, Circuit
from model_server.config import QueueProxySettings, WeightedPredictor
from model_server.errors import BadGateway, Unavailable
from model_server.http import body as http_body
from model_server.http.body import Buffer
from model_server.http.client_address import client_address
from model_server.queue_proxy import metrics
from model_server.queue_proxy.cache import Reply
from model_server.queue_proxy.upstream import Headers, Upstream
from model_server.store.identifiers import PLACES

logger = logging.getLogger(__name__)

FAILURES_THAT_OPEN = 3

OnAnswer = Callable[[Upstream, str, str], None]

place: ContextVar[int] = ContextVar("place", default=0)
"""0 to PLACES - 1."""


class Member:
    """One predictor, what is in flight there, and whether it is away. It gets the places below ``end``."""

    def __init__(self, settings: QueueProxySettings, url: str, buffer: Buffer) -> None:
        self.upstream = Upstream(settings, url, buffer)
        self.weight = 0
        self.end = 0
        self.label = self.upstream.url.partition("://")[2]
        self.breaker = Breaker(settings.sync_in_flight, settings.sync_waiting)
        self.circuit = Circuit(self.upstream.is_ready, FAILURES_THAT_OPEN)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.PREDICTOR_AWAY.labels(self.label).set_function(lambda: self.circuit.is_open)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request while it is in flight."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def until_idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    async def close(self) -> None:
        """Close its connections."""
        await self.circuit.close()
        await self.upstream.close()


class Split:
    """The predictors as one: each call goes to the one that has the task's ``place``.

    While that one is away the heaviest stands in for it; for the heaviest, the model that is trusted, nobody does.
    """

    def __init__(self, settings: QueueProxySettings, predictors: Sequence[WeightedPredictor], buffer: Buffer) -> None:
        self._settings = settings
        self._buffer = buffer
        self._members: list[Member] = []
        self._leaving: dict[asyncio.Task[None], Member] = {}
        self._on_answer: list[OnAnswer] = []
        self.change(predictors)
        metrics.SYNC_IN_FLIGHT.set_function(lambda: sum(one.breaker.in_flight for one in self._members))
        metrics.SYNC_WAITING.set_function(lambda: sum(one.breaker.waiting for one in self._members))

    def change(self, predictors: Sequence[WeightedPredictor]) -> None:
        """Let these share the callers from now on; who is left out finishes what is in flight there, and is closed."""
        known = {member.upstream.url: member for member in self._members}
        members = []
        for one in predictors:
            member = known.pop(one.url.rstrip("/"), None) or self._join(one.url)
            member.weight = one.weight
            members.append(member)
        total, so_far = sum(member.weight for member in members), 0
        for member in members:
            so_far += member.weight
            member.end = PLACES * so_far // total
            metrics.PREDICTOR_WEIGHT.labels(member.label).set(member.weight)
        self._members = members
        self._main = max(members, key=lambda member: member.weight)
        for member in known.values():
            metrics.PREDICTOR_WEIGHT.labels(member.label).set(0)
            leaving = asyncio.create_task(self._leave(member))
            self._leaving[leaving] = member
            leaving.add_done_callback(self._leaving.pop)
        logger.info("predictors", extra={"weights": {member.label: member.weight for member in members}})

    def _join(self, url: str) -> Member:
        member = Member(self._settings, url, self._buffer)
        member.upstream.on_answer(partial(self._answered, member.upstream))
        return member

    async def _leave(self, member: Member) -> None:
        await member.until_idle()
        if all(member.label != other.label for other in self._members):
            metrics.PREDICTOR_WEIGHT.remove(member.label)
            metrics.PREDICTOR_AWAY.remove(member.label)
        await member.close()

    def on_answer(self, tell: OnAnswer) -> None:
        """Call ``tell(upstream, model, version)`` whenever a version answers for a model."""
        self._on_answer.append(tell)

    def _answered(self, upstream: Upstream, model: str, version: str) -> None:
        for tell in self._on_answer:
            tell(upstream, model, version)

    def _chosen(self) -> Member:
        where = place.get()
        member = next(member for member in self._members if where < member.end)
        return self._main if member.circuit.is_open else member

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Hold one of the places for synchronous requests; raises Overloaded."""
        return self._chosen().breaker.slot()

    def version(self, model: str) -> str | None:
        """Return the version that answered last for a model, None before the first answer."""
        return self._chosen().upstream.version(model)

    def identity(self) -> bytes:
        """Return what tells results of this predictor from those of others; nothing where there are no others."""
        return b"" if len(self._members) == 1 else self._chosen().label.encode()

    async def send(
        self, method: str, target: str, headers: Headers, body: bytes | None, *, model: str | None = None
    ) -> Reply:
        """Send a request to ``target``, an encoded path with its query; raises as ``Upstream.send`` does."""
        member = self._chosen()
        metrics.PREDICTOR_REQUESTS.labels(member.label).inc()
        try:
            with member.working():
                reply = await member.upstream.send(method, target, headers, body, model=model)
        except (Unavailable, BadGateway):
            if member is not self._main:  # who asks the heaviest holds back by a circuit of his own
                member.circuit.failed()
            raise
        member.circuit.succeeded()
        return reply

    async def is_ready(self) -> bool:
        """Whether the heaviest says that it can predict."""
        return await self._main.upstream.is_ready()

    async def close(self) -> None:
        """Close every connection."""
        for leaving in self._leaving:
            leaving.cancel()
        for member in [*self._members, *self._leaving.values()]:
            await member.close()


def take_place(scope: Scope, settings: QueueProxySettings, user_id: UUID | None) -> None:
    """Give the task the place of its caller: a user, or somebody unknown with an idempotency key or an address."""
    who = str(user_id or "") or http_body.header(scope, b"idempotency-key")
    place.set(place_of(who or client_address(scope, settings.trusted_proxies)))


def place_of(who: str) -> int:
    """Return the place that a caller always has."""
    return int.from_bytes(hashlib.sha256(who.encode()).digest()[:8]) % PLACES
