"""Several predictors that share the callers by weight, such as a model and its canary.

A caller stays with one predictor, and moves only where its weight shrinks. ``place`` says where in the split the caller
of the present task stands; a queued prediction carries it in the last bits of its id, so that every worker of every
process asks the same predictor for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from uuid import UUID

from aiohttp import ClientResponse
from starlette.types import Scope

from model_server.breaker import Breaker, Circuit
from model_server.config import QueueProxySettings
from model_server.errors import BadGateway, Unavailable
from model_server.http import body as http_body
from model_server.http.client_address import client_address
from model_server.queue_proxy import metrics
from model_server.queue_proxy.upstream import Body, Headers, Upstream
from model_server.store.identifiers import PLACES

FAILURES_THAT_OPEN = 3

place: ContextVar[int] = ContextVar("place", default=0)
"""0 to PLACES - 1."""


class Member:
    """One predictor, what is in flight there, and whether it is away. It gets the places below ``end``."""

    def __init__(self, settings: QueueProxySettings, url: str, weight: int) -> None:
        self.upstream = Upstream(settings, url)
        self.weight = weight
        self.end = 0
        self.label = self.upstream.url.partition("://")[2]
        self.breaker = Breaker(settings.sync_in_flight, settings.sync_waiting)
        self.circuit = Circuit(self.upstream.is_ready, FAILURES_THAT_OPEN)
        metrics.PREDICTOR_AWAY.labels(self.label).set_function(lambda: self.circuit.is_open)

    async def close(self) -> None:
        """Close its connections."""
        await self.circuit.close()
        await self.upstream.close()


class Split:
    """The predictors as one: each call goes to the one that has the task's ``place``.

    While that one is away the heaviest stands in for it; for the heaviest, the model that is trusted, nobody does.
    """

    def __init__(self, settings: QueueProxySettings) -> None:
        given = [(one.url, one.weight) for one in settings.predictors] or [(settings.predictor_url, 1)]
        self._members = [Member(settings, url, weight) for url, weight in given]
        self._main = max(self._members, key=lambda member: member.weight)
        total, so_far = sum(member.weight for member in self._members), 0
        for member in self._members:
            so_far += member.weight
            member.end = PLACES * so_far // total
        metrics.SYNC_IN_FLIGHT.set_function(lambda: sum(one.breaker.in_flight for one in self._members))
        metrics.SYNC_WAITING.set_function(lambda: sum(one.breaker.waiting for one in self._members))

    def _chosen(self) -> Member:
        where = place.get()
        member = next(member for member in self._members if where < member.end)
        return self._main if member.circuit.is_open else member

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Hold one of the places for synchronous requests; raises Overloaded."""
        return self._chosen().breaker.slot()

    def upstreams(self) -> list[Upstream]:
        """Return the predictors one by one."""
        return [member.upstream for member in self._members]

    def version(self, model: str) -> str | None:
        """Return the version that answered last for a model, None before the first answer."""
        return self._chosen().upstream.version(model)

    def identity(self) -> bytes:
        """Return what tells results of this predictor from those of others; nothing where there are no others."""
        return b"" if len(self._members) == 1 else self._chosen().label.encode()

    @asynccontextmanager
    async def send(
        self, method: str, target: str, headers: Headers, body: Body, *, model: str | None = None
    ) -> AsyncIterator[ClientResponse]:
        """Send a request to ``target``, an encoded path with its query; raises as ``Upstream.send`` does."""
        member = self._chosen()
        metrics.PREDICTOR_REQUESTS.labels(member.label).inc()
        try:
            async with member.upstream.send(method, target, headers, body, model=model) as response:
                member.circuit.succeeded()
                yield response
        except (Unavailable, BadGateway):
            if member is not self._main:  # who asks the heaviest holds back by a circuit of his own
                member.circuit.failed()
            raise

    async def is_ready(self) -> bool:
        """Whether the heaviest says that it can predict."""
        return await self._main.upstream.is_ready()

    async def close(self) -> None:
        """Close every connection."""
        for member in self._members:
            await member.close()


def take_place(scope: Scope, settings: QueueProxySettings, user_id: UUID | None) -> None:
    """Give the task the place of its caller: a user, or somebody unknown with an idempotency key or an address."""
    who = str(user_id or "") or http_body.header(scope, b"idempotency-key")
    place.set(place_of(who or client_address(scope, settings.trusted_proxies)))


def place_of(who: str) -> int:
    """Return the place that a caller always has."""
    return int.from_bytes(hashlib.sha256(who.encode()).digest()[:8]) % PLACES
