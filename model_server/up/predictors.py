"""The predictor in service, at times another beside it, and who of them gets how many of the callers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from model_server.config import ENV_PREFIX
from model_server.errors import BundleError, Conflict
from model_server.schema import LOADING, MODEL_VERSION_HEADER
from model_server.up import asking, ports
from model_server.up.child import Service
from model_server.up.door import Door
from model_server.up.history import write_whole

logger = logging.getLogger(__name__)

FILE = "predictors.json"
GRACE_SECONDS = 2
LOOK_SECONDS = 0.1
DRAIN_SECONDS = 90
"""Above the time that a request may take at the predictor; after it, what is still there is cut off."""
WEIGHT = re.compile(r'^model_server_queue_proxy_predictor_weight\{predictor="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Serving:
    """One predictor: where it is, what it serves, and the process."""

    bundle: Path | None
    address: str
    service: Service

    @property
    def url(self) -> str:
        """Its URL from this machine."""
        return f"http://{self.address}"

    async def until_ready(self, timeout_seconds: float) -> None:
        """Wait until it has loaded its model and found its golden images right; raises BundleError with the reason."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while (obstacle := await asyncio.to_thread(self._obstacle)) is not None:
                    if not obstacle.endswith(LOADING):
                        raise BundleError(obstacle)
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise BundleError(f"The model was not loaded within {timeout_seconds:g} s.") from None

    def _obstacle(self) -> str | None:
        if self.service.has_ended:
            return "The predictor ended while it loaded the model; the log of `model-server up` has its last words."
        try:
            reply = asking.get(f"{self.url}/v2/health/ready")
            return None if reply.status == HTTPStatus.OK else str(json.loads(reply.body)["error"])
        except (OSError, HTTPException, ValueError, KeyError):
            return LOADING

    async def version(self, model: str) -> str | None:
        """Return the version that it serves, None where it is not ready."""
        try:
            reply = await asyncio.to_thread(asking.get, f"{self.url}/v2/models/{quote(model, safe='')}")
        except (OSError, HTTPException):
            return None
        return reply.headers.get(MODEL_VERSION_HEADER) if reply.status == HTTPStatus.OK else None


class Predictors:
    """Starts and ends predictors, and tells the queue-proxy of them by a file."""

    def __init__(
        self, environment: Mapping[str, str], host: str, folder: Path, door: Door, hurried: asyncio.Event
    ) -> None:
        self._environment = environment
        self._host = host
        self._folder = folder
        self.door = door
        self._hurried = hurried
        self._running: list[Serving] = []
        self._ending = False

    @property
    def file(self) -> Path:
        """What the queue-proxy reads."""
        return self._folder / FILE

    def start(self, bundle: Path | None, name: str | None, port: int = 0, grpc_port: int = 0) -> Serving:
        """Start one at ``port``, or at one that is free; raises Conflict after ``end_all``."""
        if self._ending:
            raise Conflict("Everything is being ended.")
        port = port or ports.free(self._host)
        ours = {
            "model_dir": bundle,
            "model_name": name,
            "predictor_port": port,
            "predictor_grpc_port": grpc_port,
        }
        named = {f"{ENV_PREFIX}{key.upper()}": str(value) for key, value in ours.items() if value is not None}
        inherited = {key: value for key, value in self._environment.items() if key != f"{ENV_PREFIX}MODEL_DIR"}
        service = Service("predictor", ["predictor"], {**inherited, **named}, GRACE_SECONDS, self._hurried)
        serving = Serving(bundle, f"{ports.reachable(self._host)}:{port}", service)
        self._running.append(serving)
        return serving

    async def end(self, serving: Serving) -> None:
        """End one that nobody is sent to any more."""
        await serving.service.end()
        self._running.remove(serving)
        if not serving.service.task.cancelled() and (error := serving.service.task.exception()):
            logger.warning("%s", error)

    async def end_all(self) -> None:
        """End them, and start none any more."""
        self._ending = True
        await asyncio.gather(*(one.service.end() for one in self._running))

    def share(self, *shares: tuple[Serving, int]) -> None:
        """Write who gets how many of the callers."""
        document = [{"url": serving.url, "weight": weight} for serving, weight in shares]
        write_whole(self.file, json.dumps(document))

    async def until_shared(self, *shares: tuple[Serving, int]) -> None:
        """Wait until the queue-proxy does that, and has nothing in flight elsewhere; not for ever."""
        wanted = {serving.address: weight for serving, weight in shares}
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while await self._weights() != wanted:  # noqa: ASYNC110 - it is another process that changes
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            logger.warning("requests are still in flight at a predictor that is taken away")

    async def _weights(self) -> dict[str, int]:
        try:
            found = (await asyncio.to_thread(asking.get, f"{self.door.url}/metrics")).body.decode()
        except (OSError, HTTPException):
            return {}
        return {address: int(float(weight)) for address, weight in WEIGHT.findall(found)}
