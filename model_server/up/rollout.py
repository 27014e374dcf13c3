"""Another model into service, or back: load it beside the present one, try it, switch, drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_server.client.control import RollBack, RollOut
from model_server.config import QueueProxySettings
from model_server.errors import BundleError, Conflict
from model_server.store import recent
from model_server.store.database import Database, url_of
from model_server.store.images import Images
from model_server.store.object_storage import open_storage
from model_server.up import announcement, shadow
from model_server.up.bundles import fetched, forget
from model_server.up.control import Say
from model_server.up.door import first_place
from model_server.up.history import History
from model_server.up.predictors import Predictors, Serving
from model_server.up.shadow import Agreement

logger = logging.getLogger(__name__)

PER_CENT = 100
SETTLE_SECONDS = 300

Shares = tuple[tuple[Serving, int], ...]
"""Who gets how many per cent of the callers."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A predictor that is to come into service, and what it must answer as."""

    serving: Serving
    name: str
    version: str | None


class Rollouts:
    """The predictor in service at its known port, a canary beside it, and the ways from one to another.

    Until it is decided that callers are sent elsewhere, whatever fails, or is called off, leaves all as it was; from
    then on it is carried through.
    """

    def __init__(
        self,
        predictors: Predictors,
        history: History,
        folder: Path,
        known_ports: tuple[int, int],
        settings: QueueProxySettings,
    ) -> None:
        self._predictors = predictors
        self._history = history
        self._folder = folder
        self._port, self._grpc_port = known_ports
        self._settings = settings
        self._turn = asyncio.Lock()
        self._canary: Serving | None = None
        self.main = self._start_main()
        self._shares: Shares = ((self.main, PER_CENT),)
        predictors.share(*self._shares)

    def _start_main(self) -> Serving:
        return self._predictors.start(self._history.bundle, self._history.name, self._port, self._grpc_port)

    async def until_failure(self) -> None:
        """Return when the predictor in service ends for good; raises SettingsError where it refuses to start."""
        while True:
            main = self.main
            await asyncio.wait({main.service.task})
            if main is self.main:
                main.service.task.result()
                return

    async def carry(self, order: RollOut | RollBack, say: Say) -> str:
        """Do what is asked for and say what has become of it; raises Conflict, BundleError, InvalidInput."""
        if self._turn.locked():
            raise Conflict("Another rollout is on its way; wait for its end.")
        async with self._turn:
            if isinstance(order, RollOut):
                return await self._roll_out(order, say)
            return await self._roll_back(order, say)

    async def _roll_out(self, order: RollOut, say: Say) -> str:
        say(f"Looking for {order.bundle}.")
        bundle = await fetched(order.bundle, self._folder)
        name = await announcement.model_name(self.main.url)
        async with self._candidate(bundle, name) as candidate:
            say(f"Loading {bundle}, and checking its golden images.")
            await candidate.until_ready(order.timeout_seconds)
            present, new = await self.main.version(name), await candidate.version(name)
            if new is not None and new == present:
                raise Conflict(
                    f"The bundle's version is {new}, that of the model in service: replies and results tell models "
                    "apart by it. Give it another."
                )
            say(f"Trying {name} {new} on recent images.")
            agreement = await self._compare(candidate, name, present, order.shadow)
            say(str(agreement))
            if agreement.per_cent < order.min_agreement:
                raise Conflict(f"{name} {new} is refused: {agreement} {order.min_agreement:g} % are asked for.")
            if order.canary is not None:
                await _carry_through(self._try_canary(Tried(candidate, name, new), order.canary, say))
                return f"{name} {new} serves {order.canary} % of the callers, {present} the others. {agreement}"
            await _carry_through(self._promote(Tried(candidate, name, new), self._history.forward(bundle, name), say))
            forget(self._folder, self._history)
        return f"{name} {new} serves all callers{_after(present)}. {agreement}"

    async def _roll_back(self, order: RollBack, say: Say) -> str:
        name = await announcement.model_name(self.main.url)
        present = await self.main.version(name)
        if self._canary is not None:
            await _carry_through(self._drop_canary(say))
            return f"{name} {present or ''} serves all callers again; the canary has ended."
        if not self._history.before:
            raise Conflict("There is nothing to go back to: the first model is in service.")
        before = self._history.back()
        async with self._candidate(before.bundle, name) as candidate:
            say(f"Loading {before.bundle or 'the model in the package'}, and checking its golden images.")
            await candidate.until_ready(order.timeout_seconds)
            old = await candidate.version(name)
            await _carry_through(self._promote(Tried(candidate, name, old), before, say))
        return f"{name} {old} serves all callers again{_after(present)}."

    @asynccontextmanager
    async def _candidate(self, bundle: Path | None, name: str) -> AsyncIterator[Serving]:
        """Give a predictor of the bundle: the canary, or a new one, which ends where it does not come into service."""
        if self._canary and self._canary.bundle == bundle:
            yield self._canary
            return
        candidate = self._predictors.start(bundle, name)
        try:
            yield candidate
        except BaseException:
            if candidate not in {self._canary, self.main}:
                await self._predictors.end(candidate)
            raise

    async def _compare(self, candidate: Serving, name: str, version: str | None, most: int) -> Agreement:
        if version is None:
            return Agreement(0, 0)
        database = Database(url_of(self._settings), shadow.PARALLEL)
        try:
            images = Images(database, open_storage(self._settings.image_store))
            sample = await recent.judged(database, name, version, most)
            return await shadow.compare(database, images, candidate.url, name, sample)
        finally:
            await database.close()

    async def _try_canary(self, tried: Tried, per_cent: int, say: Say) -> None:
        await self._switch(tried, ((self.main, PER_CENT - per_cent), (tried.serving, per_cent)), say)
        before, self._canary = self._canary, tried.serving
        if before and before is not tried.serving:
            say("Ending the canary of before.")
            await self._predictors.end(before)

    async def _drop_canary(self, say: Say) -> None:
        canary, self._canary = self._canary, None
        await self._share(((self.main, PER_CENT),))
        if canary:
            say("Ending the canary.")
            await self._predictors.end(canary)

    async def _promote(self, tried: Tried, history: History, say: Say) -> None:
        """Send all callers to the candidate, and from there to one of the same bundle at the known port."""
        candidate = tried.serving
        await self._switch(tried, ((candidate, PER_CENT),), say)
        old, canary = self.main, self._canary
        self.main, self._canary, self._history = candidate, None, history
        history.write(self._folder)
        for gone in (old, canary):
            if gone and gone is not candidate:
                await self._predictors.end(gone)
        say(f"Starting it at port {self._port}, too, where the model before was.")
        settled = self._start_main()
        try:
            await settled.until_ready(SETTLE_SECONDS)
            await self._switch(replace(tried, serving=settled), ((settled, PER_CENT),), say)
        except (BundleError, Conflict) as error:
            logger.warning("the predictor stays at %s: %s", candidate.address, error)
            await self._predictors.end(settled)
            return
        self.main = settled
        await self._predictors.end(candidate)

    async def _switch(self, tried: Tried, shares: Shares, say: Say) -> None:
        """Share the callers so, the last of them to the one that is tried; raises Conflict, and shares as before."""
        say("Switching, trying it through the door, and waiting for what is in flight.")
        before, self._shares = self._shares, shares
        self._predictors.share(*shares)
        try:
            await self._predictors.door.try_out(tried.name, tried.version, first_place(shares[-1][1]))
        except Conflict:
            say("Going back to what served before.")
            await self._share(before)
            raise
        await self._predictors.until_shared(*shares)

    async def _share(self, shares: Shares) -> None:
        self._shares = shares
        self._predictors.share(*shares)
        await self._predictors.until_shared(*shares)


async def _carry_through(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end even where the task that wants it is cancelled meanwhile."""
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    task.result()


def _after(version: str | None) -> str:
    return f", after {version}" if version else ""
